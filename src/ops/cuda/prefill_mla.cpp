// Prefill rows of multi-head latent attention: the form that choose_mla_prefill names, on tensor
// cores where its kernels fit, else the absorbed form on plain ones.
#include "kernels/prefill_attention.h"
#include "ops/cuda/choose_mla_prefill.h"
#include "ops/cuda/cuda_ops.h"
#include "ops/cuda/mla_call.h"
#include "ops/cuda/slot_arrays.h"

namespace fathom {
namespace {

using kernels::Format;

kernels::MlaPrefillDesc desc_of(const MlaCall& call, int32_t first_row) {
  const StepShape& shape = call.batch.shape;
  const MlaParams& p = call.p;
  const Tensor& cache = call.cache.cache;
  const Tensor& key = p.up.key;
  kernels::MlaPrefillDesc desc;
  desc.rows = shape.rows - first_row;
  desc.tokens = shape.tokens - first_row;  // a row before them has a token at least
  desc.context_tokens_max = shape.context_tokens_max;
  desc.context_tokens = first_row == shape.decode_rows ? shape.prefill_context_tokens : 0;
  desc.heads = p.heads;
  desc.nope_dims = p.nope_dims;
  desc.rope_dims = p.rope_dims;
  desc.value_dims = p.value_dims;
  desc.kv_lora = p.kv_lora;
  desc.block_tokens = call.cache.block_tokens;
  desc.fp8_cache = cache.dtype == DType::kF8E4M3;
  desc.bf16 = call.q.dtype == DType::kBF16 && (desc.fp8_cache || cache.dtype == DType::kBF16) &&
              cache.stride[0] == int64_t{call.cache.block_tokens} * cache.shape[2] &&
              key.dtype == DType::kBF16 && p.up.value.dtype == DType::kBF16 &&
              call.q.stride[0] % 8 == 0;
  return desc;
}

}  // namespace

bool CudaOps::mla_prefill_naive(const MlaCall& call, int32_t first_row) {
  if (!hopper_) return false;
  kernels::MlaPrefillDesc desc = desc_of(call, first_row);
  desc.may_split = !deterministic_;
  desc.multiprocessors = sms_;
  const kernels::MlaPrefillPlan plan = kernels::plan_mla_prefill(desc);
  if (!plan.fits) return false;
  const MlaParams& p = call.p;
  const int64_t tokens = call.batch.shape.tokens;
  ArenaScope scope(arena_);
  const Tensor rope = arena_.take(DType::kBF16, {tokens, p.heads, p.rope_dims});
  kernels::RopeQueries turn;
  turn.positions = call.tokens.positions;
  turn.token_row = call.tokens.token_row;
  turn.token_valid = call.tokens.token_valid;
  turn.cosines = call.tokens.cosines;
  turn.sines = call.tokens.sines;
  turn.rope_stride = call.tokens.rope_stride;
  turn.first_row = first_row;
  turn.tokens = tokens;
  turn.heads = p.heads;
  check(kernels::mla_prefill_rope(stream_, turn, rows_of(call.q), rope.data), "mla_attention");
  kernels::MlaPrefillCall prefill;
  prefill.rows = prefill_rows(call.batch, call.tokens, first_row);
  prefill.tokens = tokens;
  prefill.queries = call.q.data;
  prefill.query_stride = call.q.stride[0];
  prefill.rope_queries = rope.data;
  prefill.cache = call.cache.cache.data;
  prefill.blocks = call.cache.cache.shape[0];
  prefill.up_key = p.up.key.data;
  prefill.up_key_across = p.up.key.stride[1] == 1;
  prefill.up_value = p.up.value.data;
  prefill.softmax_scale = p.softmax_scale;
  prefill.out.data = call.out.data;
  prefill.out.format = format_of(call.out.dtype);
  prefill.out.stride = call.out.stride[0];
  if (desc.fp8_cache) prefill.spread = arena_.take(DType::kBF16, {plan.spread_numbers()}).data;
  prefill.expanded = arena_.take(DType::kBF16, {plan.expanded_numbers()}).data;
  if (plan.carry_floats() > 0) prefill.carry = floats(plan.carry_floats());
  check(kernels::mla_prefill(stream_, desc, plan, prefill), "mla_attention");
  return true;
}

void CudaOps::mla_prefill_rows(const MlaCall& call, MlaForm form) {
  const StepShape& shape = call.batch.shape;
  MlaPrefillProblem problem;
  problem.rows = shape.rows - shape.decode_rows;
  problem.tokens_max = shape.prefill_tokens_max;
  problem.step_tokens = shape.tokens;
  problem.context_tokens = shape.prefill_context_tokens;
  problem.heads = call.p.heads;
  problem.deterministic = deterministic_;
  const bool chosen = form == MlaForm::kChosen;
  const bool absorbed = !chosen || choose_mla_prefill(problem) == MlaPrefillForm::kAbsorbed;
  if (absorbed && mla_prefill_absorbed(call)) return;
  if (chosen && mla_prefill_naive(call, shape.decode_rows)) return;
  mla_prefill_plain(call);
}

// The absorbed form on plain kernels. Projections cover the tokens of all rows, for where the first
// prefill token lies is known on the device alone.
void CudaOps::mla_prefill_plain(const MlaCall& call) {
  const StepShape& shape = call.batch.shape;
  const MlaParams& p = call.p;
  ArenaScope scope(arena_);
  const Tensor queries = arena_.take(act_dtype(), {shape.tokens, p.heads, p.kv_lora + p.rope_dims});
  const Tensor latents = arena_.take(act_dtype(), {shape.tokens, p.heads, p.kv_lora});
  mla_absorb(call, queries);
  kernels::mla_attend(stream_, call.shape, call.tokens, {shape.decode_rows, shape.rows},
                      queries.data, act_format(), latents.data);
  mla_values(call, latents, shape.decode_rows, shape.rows);
}

}  // namespace fathom
