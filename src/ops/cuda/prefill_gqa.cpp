// Prefill rows of grouped-query attention on tensor cores.
#include "kernels/prefill_attention.h"
#include "ops/cuda/cuda_ops.h"
#include "ops/cuda/gqa_step.h"
#include "ops/cuda/slot_arrays.h"

namespace fathom {

namespace {

kernels::GqaPrefillDesc desc_of(const KvView& cache, const GqaParams& p) {
  const bool fp8 = cache.cache.dtype == DType::kF8E4M3;
  return {p.heads, p.kv_heads, p.head_dims, cache.block_tokens,
          fp8 || cache.cache.dtype == DType::kBF16, fp8};
}

}  // namespace

bool prefills_on_tensor_cores(const KvView& cache, DType qkv, const GqaParams& p) {
  const Tensor& t = cache.cache;
  return qkv == DType::kBF16 && t.stride[0] == int64_t{cache.block_tokens} * t.shape[2] &&
         kernels::gqa_prefill_fits(desc_of(cache, p));
}

void CudaOps::gqa_prefill_rows(const GqaStep& step, cudaStream_t stream) {
  const StepShape& shape = step.batch.shape;
  const GqaParams& p = step.params;
  const kernels::GqaPrefillDesc desc = desc_of(step.cache, p);
  kernels::GqaPrefillCall call;
  call.rows = prefill_rows(step.batch, step.tokens, shape.decode_rows);
  call.tokens = shape.tokens;
  call.query_tiles =
      kernels::prefill_tiles_max(shape.rows - shape.decode_rows, shape.tokens - shape.decode_rows);
  call.queries = step.queries.data;
  call.cache = step.cache.cache.data;
  call.blocks = step.cache.cache.shape[0];
  call.softmax_scale = p.softmax_scale;
  call.out = step.out;
  if (!desc.fp8_cache) {
    check(kernels::gqa_prefill(stream, desc, call), "gqa_attention");
    return;
  }
  const kernels::GqaSpreadPlan plan =
      kernels::plan_gqa_spread(desc, shape.rows - shape.decode_rows,
                               shape.tokens - shape.decode_rows, shape.context_tokens_max);
  kernels::GqaSpreadMemory memory;
  memory.spread = arena_.take(DType::kBF16, {plan.spread_numbers()}).data;
  if (plan.carry_floats() > 0) memory.carry = floats(plan.carry_floats());
  check(kernels::gqa_prefill_fp8(stream, desc, plan, call, memory), "gqa_attention");
}

}  // namespace fathom
