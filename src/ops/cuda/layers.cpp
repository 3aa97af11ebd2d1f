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

Tensor CudaOps::logits(const Act& x, const Weight& head, Comm* group) {
  check_single(group);
  const Tensor out = arena_.take(DType::kF32, {x.data.shape[0], head.out()});
  multiply(x, head, out, Format::kF32);
  return out;
}

}  // namespace fathom
