// Multi-head latent attention on the GPU: decode and verify rows on the kernels that
// choose_mla_decode names, with a schedule made once a step, else on the plain ones. The usual way
// of decode rows is mla_fused.cpp's, prefill rows are prefill_mla.cpp's.
#include <algorithm>

#include "kernels/mla_project.h"
#include "ops/cuda/cuda_ops.h"
#include "ops/cuda/mla_call.h"
#include "ops/cuda/slot_arrays.h"

namespace fathom {
namespace {

using kernels::Format;

kernels::MlaDecodeRows decode_rows(const MlaCall& call) {
  kernels::MlaDecodeRows rows;
  rows.slot = call.tokens.row_slot;
  rows.first = call.batch.row_first.as<int32_t>();
  rows.query = call.batch.row_query.as<int32_t>();
  rows.context = call.batch.row_context.as<int32_t>();
  rows.block_table = call.tokens.block_table;
  rows.table_stride = call.tokens.table_stride;
  return rows;
}

// q [tokens, heads * (nope + rope)] to the first columns of queries [tokens, heads, entry].
kernels::HeadProjection absorb_projection(const MlaCall& call, const Tensor& queries) {
  const MlaParams& p = call.p;
  kernels::HeadProjection h;
  h.x = call.q.data;
  h.x_stride = call.q.stride[0];
  h.x_head_stride = p.nope_dims + p.rope_dims;
  h.weights = p.up.key.data;
  h.heads = p.heads;
  h.columns = p.kv_lora;
  h.inner = p.nope_dims;
  h.tokens = queries.shape[0];
  h.out = queries.data;
  h.out_format = Format::kBF16;
  h.out_stride = queries.stride[0];
  h.out_head_stride = queries.stride[1];
  return h;
}

// latents [tokens, heads, kv_lora] to the call's output.
kernels::HeadProjection value_projection(const MlaCall& call, const Tensor& latents) {
  const MlaParams& p = call.p;
  kernels::HeadProjection h;
  h.x = latents.data;
  h.x_stride = latents.stride[0];
  h.x_head_stride = latents.stride[1];
  h.weights = p.up.value.data;
  h.heads = p.heads;
  h.columns = p.value_dims;
  h.inner = p.kv_lora;
  h.tokens = latents.shape[0];
  h.token_row = call.tokens.token_row;
  h.valid = call.tokens.token_valid;
  h.out = call.out.data;
  h.out_format = format_of(call.out.dtype);
  h.out_stride = call.out.stride[0];
  h.out_head_stride = p.value_dims;
  return h;
}

}  // namespace

// Whether projections of heads run on tensor cores.
bool CudaOps::mla_products(const MlaCall& call) const {
  const MlaParams& p = call.p;
  return act_format() == Format::kBF16 && call.q.dtype == DType::kBF16 &&
         p.up.key.dtype == DType::kBF16 && p.up.key.stride[1] == 1 &&
         p.up.value.dtype == DType::kBF16 && p.kv_lora % 128 == 0 && p.nope_dims % 128 == 0 &&
         p.value_dims % 64 == 0 && p.rope_dims % 8 == 0;
}

// Queries in the latent's space, of the first tokens: `queries` [tokens, heads, entry].
void CudaOps::mla_absorb(const MlaCall& call, const Tensor& queries) {
  if (mla_products(call)) {
    kernels::mla_rope_queries(stream_, call.shape, call.tokens,
                              {rows_of(call.q), queries.data, queries.shape[0]});
    const kernels::HeadProjection projection = absorb_projection(call, queries);
    FATHOM_CHECK(can_project_heads(projection), "queries lie where no projection takes them");
    check(kernels::project_heads(stream_, projection), "mla_attention");
    return;
  }
  const Tensor& key = call.p.up.key;
  kernels::AttentionBatch tokens = call.tokens;
  tokens.tokens = queries.shape[0];
  kernels::mla_absorb(stream_, call.shape, tokens, rows_of(call.q),
                      {key.data, format_of(key.dtype), key.stride[1], key.stride[2]}, act_format(),
                      queries.data);
}

// Latents of the first tokens to the output, where their row is in [first_row, end_row).
void CudaOps::mla_values(const MlaCall& call, const Tensor& latents, int32_t first_row,
                         int32_t end_row) {
  if (mla_products(call)) {
    kernels::HeadProjection projection = value_projection(call, latents);
    projection.first_row = first_row;
    projection.end_row = end_row;
    FATHOM_CHECK(can_project_heads(projection), "latents lie where no projection takes them");
    check(kernels::project_heads(stream_, projection), "mla_attention");
    return;
  }
  kernels::AttentionBatch tokens = call.tokens;
  tokens.tokens = latents.shape[0];
  kernels::mla_values(stream_, call.shape, tokens, {first_row, end_row}, latents.data, act_format(),
                      call.p.up.value.data, format_of(call.p.up.value.dtype), rows_of(call.out));
}

// Layers of a step share a schedule. A captured step has its own, though an eager run of the same
// arrays came before it.
bool CudaOps::schedule_is_made(MlaStepSchedule& schedule, const MlaScheduleKey& wanted) {
  MlaScheduleKey key = wanted;
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check(cudaStreamGetCaptureInfo(stream_, &status, &key.capture), "mla_attention");
  if (status == cudaStreamCaptureStatusNone) key.capture = 0;
  if (schedule.made == key) return true;
  schedule.made = key;
  return false;
}

kernels::MlaDecodeDesc CudaOps::mla_decode_desc(const MlaCall& call) const {
  const StepShape& shape = call.batch.shape;
  const Tensor& cache = call.cache.cache;
  kernels::MlaDecodeDesc desc;
  desc.rows = shape.decode_rows;
  desc.query_tokens_max = shape.query_tokens_max;
  desc.heads = call.p.heads;
  desc.kv_lora = call.p.kv_lora;
  desc.rope_dims = call.p.rope_dims;
  desc.block_tokens = call.cache.block_tokens;
  desc.fp8_cache = cache.dtype == DType::kF8E4M3;
  desc.bf16 = hopper_ && act_format() == Format::kBF16 &&
              (desc.fp8_cache || cache.dtype == DType::kBF16) &&
              cache.stride[0] == int64_t{call.cache.block_tokens} * cache.shape[2];
  desc.multiprocessors = sms_;
  desc.deterministic = deterministic_;
  return desc;
}

kernels::MlaDecodeCall CudaOps::mla_decode_call(const MlaCall& call,
                                                const kernels::MlaDecodeConfig& config,
                                                const Tensor& queries, const Tensor& latents) {
  kernels::MlaDecodeCall decode;
  decode.rows = decode_rows(call);
  decode.tokens = queries.shape[0];
  decode.queries = queries.data;
  decode.cache = call.cache.cache.data;
  decode.blocks = call.cache.cache.shape[0];
  decode.softmax_scale = call.p.softmax_scale;
  decode.out = latents.data;
  decode.partial = floats(config.partial_pairs() * call.p.kv_lora);
  decode.partial_weights = floats(2 * config.partial_pairs());
  return decode;
}

void CudaOps::mla_make_schedule(const kernels::MlaDecodeDesc& desc,
                                const kernels::MlaDecodeConfig& config,
                                const kernels::MlaDecodeRows& rows, MlaStepSchedule& schedule) {
  if (schedule_is_made(schedule, {rows.context, desc.rows, config.parts, config.slots, 0})) return;
  check(kernels::mla_schedule(stream_, desc, config, rows, schedule.arrays), "mla_attention");
}

// Weighted latents of the decode and verify rows; false when no kernel fits them.
bool CudaOps::mla_attend_decode(const MlaCall& call, const Tensor& queries, const Tensor& latents) {
  const kernels::MlaDecodeDesc desc = mla_decode_desc(call);
  const kernels::MlaDecodeConfig config = kernels::choose_mla_decode(desc);
  if (config.kind == kernels::MlaDecodeKind::kPlain) return false;
  ArenaScope scope(arena_);
  kernels::MlaDecodeCall decode = mla_decode_call(call, config, queries, latents);
  decode.overlap = false;  // what comes before lets it start too early
  mla_make_schedule(desc, config, decode.rows, decode_schedule_);
  check(kernels::mla_decode(stream_, desc, config, decode_schedule_.arrays, decode),
        "mla_attention");
  return true;
}

void CudaOps::mla_decode_rows(const MlaCall& call, int64_t tokens) {
  ArenaScope scope(arena_);
  const Tensor queries =
      arena_.take(act_dtype(), {tokens, call.p.heads, call.p.kv_lora + call.p.rope_dims});
  const Tensor latents = arena_.take(act_dtype(), {tokens, call.p.heads, call.p.kv_lora});
  const int32_t rows = call.batch.shape.decode_rows;
  mla_absorb(call, queries);
  if (!mla_attend_decode(call, queries, latents)) {
    kernels::AttentionBatch batch = call.tokens;
    batch.tokens = tokens;
    kernels::mla_attend(stream_, call.shape, batch, {0, rows}, queries.data, act_format(),
                        latents.data);
  }
  mla_values(call, latents, 0, rows);
}

Act CudaOps::mla_attention(const BatchView& batch, const KvView& cache, const Tensor& q,
                           const Tensor& kv_a, const MlaParams& p, MlaForm form) {
  arena_.name_op("mla_attention");
  const StepShape& shape = batch.shape;
  const int64_t columns = int64_t{p.heads} * p.value_dims;
  const Act act = take_act(shape.tokens, columns, p.out);
  ArenaScope scope(arena_);
  const bool quantizes = p.out.format == ActFormat::kFp8Block;
  const MlaCall call{batch,
                     cache,
                     q,
                     kv_a,
                     p,
                     {p.heads, p.nope_dims, p.rope_dims, p.value_dims, p.kv_lora,
                      cache.block_tokens, p.softmax_scale, p.norm_epsilon},
                     attention_batch(batch, cache, p.rope),
                     quantizes ? arena_.take(DType::kF32, {shape.tokens, columns}) : act.data};
  const bool all_decode = shape.decode_rows == shape.rows;
  const int64_t decode_tokens =
      all_decode
          ? shape.tokens
          : std::min<int64_t>(shape.tokens, int64_t{shape.decode_rows} * shape.query_tokens_max);
  const Act whole{call.out, {}, {}};
  const bool fused = form != MlaForm::kNaive && decode_tokens > 0 &&
                     mla_decode_fused(call, decode_tokens, epilogue_of(all_decode ? act : whole));
  if (!fused) mla_write_entries(call);
  if (form == MlaForm::kNaive) {
    FATHOM_CHECK(mla_prefill_naive(call, 0), "this backend has no naive form of such attention");
  } else {
    if (decode_tokens > 0 && !fused) mla_decode_rows(call, decode_tokens);
    if (!all_decode) mla_prefill_rows(call, form);
  }
  if (quantizes && !(fused && all_decode)) finish(call.out.as<float>(), shape.tokens, columns, act);
  check(cudaGetLastError(), "mla_attention");
  return act;
}

}  // namespace fathom
