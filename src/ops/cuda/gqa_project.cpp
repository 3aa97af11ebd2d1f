// Grouped-query attention with the product before it: its kernel makes heads ready where steps have
// many rows in e4m3.
#include "kernels/gqa_decode_plan.h"
#include "kernels/tall_gemm.h"
#include "ops/cuda/choose_tall.h"
#include "ops/cuda/cuda_ops.h"
#include "ops/cuda/gqa_step.h"

namespace fathom {
namespace {

bool aligned(const void* data, int64_t stride_bytes) {
  return reinterpret_cast<uintptr_t>(data) % 16 == 0 && stride_bytes % 16 == 0;
}

bool aligned(const Tensor& t) { return aligned(t.data, t.stride[0] * dtype_bytes(t.dtype)); }

// Heads that the kernel makes ready: even numbers of them, of 128 dimensions, without biases and
// norms.
bool plain_heads(const KvView& cache, const GqaParams& p) {
  return p.head_dims == kernels::kTallHeadDims && p.heads % 2 == 0 && p.kv_heads % 2 == 0 &&
         cache.block_tokens == kernels::kGqaBlockTokens && !p.bias.defined() &&
         !p.q_norm.defined() && !p.k_norm.defined() && cache.cache.dtype != DType::kF32 &&
         aligned(cache.cache) && aligned(p.rope.cosines) && aligned(p.rope.sines);
}

TallProblem problem_of(const Act& x, const Weight& weight) {
  TallProblem p;
  p.rows = x.data.shape[0];
  p.out = weight.out();
  p.in = weight.in();
  p.whole_blocks = weight.first_column_in_block == 0 && x.spec.first_column_in_block == 0 &&
                   weight.scales.shape[0] * 128 == weight.out();
  p.aligned = aligned(x.data) && aligned(weight.values);
  return p;
}

}  // namespace

Act CudaOps::project_gqa(const BatchView& batch, const KvView& cache, const Act& x,
                         const Weight& qkv, const GqaParams& p) {
  const bool fits = qkv.format == WeightFormat::kFp8Block &&
                    x.spec.format == ActFormat::kFp8Block && act_dtype() == DType::kBF16 &&
                    plain_heads(cache, p) &&
                    qkv.out() == (p.heads + 2 * int64_t{p.kv_heads}) * p.head_dims;
  if (fits) {
    TallProblem problem = problem_of(x, qkv);
    problem.deterministic = deterministic_;
    problem.hopper = hopper_;
    problem.sms = sms_;
    const std::optional<kernels::TallPlan> plan = choose_tall_heads(problem);
    if (plan) return attend_gqa(batch, cache, {DType::kBF16, nullptr, &x, &qkv, *plan}, p);
  }
  return Ops::project_gqa(batch, cache, x, qkv, p);
}

}  // namespace fathom
