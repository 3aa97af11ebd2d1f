// Prefill rows of grouped-query attention on tensor cores.
#include "kernels/prefill_attention.h"
#include "ops/cuda/cuda_ops.h"
#include "ops/cuda/gqa_step.h"
#include "ops/cuda/slot_arrays.h"

namespace fathom {

bool prefills_on_tensor_cores(const KvView& cache, const Tensor& qkv, const GqaParams& p) {
  const Tensor& t = cache.cache;
  const bool bf16 = qkv.dtype == DType::kBF16 && t.dtype == DType::kBF16 &&
                    t.stride[0] == int64_t{cache.block_tokens} * t.shape[2];
  return kernels::gqa_prefill_fits({p.heads, p.kv_heads, p.head_dims, cache.block_tokens, bf16});
}

void CudaOps::gqa_prefill_rows(const GqaStep& step) {
  const StepShape& shape = step.batch.shape;
  if (shape.decode_rows == shape.rows) return;
  const GqaParams& p = step.params;
  const kernels::GqaPrefillDesc desc{p.heads, p.kv_heads, p.head_dims, step.cache.block_tokens,
                                     true};
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
  check(kernels::gqa_prefill(stream_, desc, call), "gqa_attention");
}

}  // namespace fathom
