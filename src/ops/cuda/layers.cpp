// The layers' ops, each a few kernels with float32 rows between them.
#include "kernels/attention.h"
#include "kernels/dense.h"
#include "ops/cuda/cuda_ops.h"
#include "ops/cuda/slot_arrays.h"

namespace fathom {

using kernels::Format;

kernels::Format CudaOps::act_format() const { return format_of(act_dtype()); }

void CudaOps::check_single(const Comm* group) const {
  FATHOM_CHECK(group == nullptr || group->size() == 1, "this backend runs one rank");
}

Act CudaOps::take_act(int64_t rows, int64_t columns, const ActSpec& spec) {
  Act act;
  act.spec = spec;
  switch (spec.format) {
    case ActFormat::kF32: act.data = arena_.take(DType::kF32, {rows, columns}); break;
    case ActFormat::kBF16: act.data = arena_.take(DType::kBF16, {rows, columns}); break;
    case ActFormat::kFp8Block:
      act.data = arena_.take(DType::kF8E4M3, {rows, columns});
      act.scales =
          arena_.take(DType::kF32, {rows, (spec.first_column_in_block + columns + 127) / 128});
      break;
  }
  return act;
}

void CudaOps::finish(const float* x, int64_t rows, int64_t stride, const Act& act) {
  kernels::finish_rows(stream_, x, rows, act.data.shape[1], stride, epilogue_of(act));
}

Tensor CudaOps::embed(const Tensor& ids, const Tensor& table, int32_t first_row, Comm* group) {
  check_single(group);
  const Tensor out = arena_.take(act_dtype(), {ids.shape[0], table.shape[1]});
  kernels::embed(stream_, ids.as<int32_t>(), ids.shape[0], rows_of(table), table.shape[0],
                 first_row, table.shape[1], rows_of(out));
  return out;
}

Act CudaOps::norm(const Tensor& x, const Tensor& weight, float epsilon, ActSpec out) {
  const int64_t rows = x.shape[0];
  const int64_t columns = x.shape[1];
  const Act act = take_act(rows, columns, out);
  ArenaScope scope(arena_);
  float* y = floats(rows * columns);
  kernels::rms_norm(stream_, rows_of(x), rows, columns, weight.as<float>(), epsilon, y);
  finish(y, rows, columns, act);
  return act;
}

void CudaOps::reduce_add(const Partial& partial, const Tensor& residual, Comm* group) {
  check_single(group);
  if (!partial.data.defined()) return;
  kernels::add_rows(stream_, rows_of(partial.data), rows_of(residual), residual.shape[0],
                    residual.shape[1]);
}

Act CudaOps::reduce_add_norm(const Partial& partial, const Tensor& residual, const Tensor& weight,
                             float epsilon, ActSpec out, Comm* group) {
  reduce_add(partial, residual, group);
  return norm(residual, weight, epsilon, out);
}

Tensor CudaOps::linear(const Act& x, const Weight& weight) {
  const Tensor out = arena_.take(act_dtype(), {x.data.shape[0], weight.out()});
  linear_partial(x, weight, out);
  return out;
}

Partial CudaOps::linear_partial(const Act& x, const Weight& weight, const Tensor& out) {
  multiply(x, weight, out, act_format());
  return Partial{out};
}

Act CudaOps::mla_attention(const BatchView& batch, const KvView& cache, const Tensor& q,
                           const Tensor& kv_a, const MlaParams& p, MlaForm form) {
  FATHOM_CHECK(form != MlaForm::kNaive, "this backend has the absorbed form alone");
  const int64_t tokens = batch.shape.tokens;
  const Act act = take_act(tokens, int64_t{p.heads} * p.value_dims, p.out);
  ArenaScope scope(arena_);
  const kernels::MlaShape shape{p.heads,   p.nope_dims,        p.rope_dims,     p.value_dims,
                                p.kv_lora, cache.block_tokens, p.softmax_scale, p.norm_epsilon};
  const kernels::AttentionBatch b = attention_batch(batch, cache, p.rope);
  kernels::mla_write(stream_, shape, b, rows_of(kv_a), p.kv_norm.as<float>());
  float* queries = floats(tokens * p.heads * (p.kv_lora + p.rope_dims));
  kernels::mla_absorb(stream_, shape, b, rows_of(q), p.up.key.data, format_of(p.up.key.dtype),
                      act_format(), queries);
  float* latents = floats(tokens * p.heads * p.kv_lora);
  kernels::mla_attend(stream_, shape, b, queries, act_format(), latents);
  float* values = floats(tokens * p.heads * p.value_dims);
  kernels::mla_values(stream_, shape, tokens, latents, p.up.value.data, format_of(p.up.value.dtype),
                      values);
  finish(values, tokens, int64_t{p.heads} * p.value_dims, act);
  check(cudaGetLastError(), "mla_attention");
  return act;
}

Tensor CudaOps::gather_rows(const Tensor& x, const Tensor& index) {
  const Tensor out = arena_.take(x.dtype, {index.shape[0], x.shape[1]});
  const int64_t size = dtype_bytes(x.dtype);
  kernels::gather(stream_, x.data, x.stride[0] * size, index.as<int32_t>(), index.shape[0],
                  x.shape[1] * size, out.data);
  return out;
}

Act CudaOps::concat(const Act& left, const Act& right, ActSpec out) {
  const int64_t rows = left.data.shape[0];
  const int64_t columns = left.data.shape[1] + right.data.shape[1];
  const Act act = take_act(rows, columns, out);
  ArenaScope scope(arena_);
  float* both = floats(rows * columns);
  kernels::concat(stream_, rows_of(left.data), left.data.shape[1], rows_of(right.data),
                  right.data.shape[1], rows, both);
  finish(both, rows, columns, act);
  return act;
}

Tensor CudaOps::logits(const Act& x, const Weight& head, Comm* group) {
  check_single(group);
  const Tensor out = arena_.take(DType::kF32, {x.data.shape[0], head.out()});
  multiply(x, head, out, Format::kF32);
  return out;
}

}  // namespace fathom
