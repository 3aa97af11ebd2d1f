// Bounds of the kernels for few tokens.
#include "ops/cuda/choose_moe.h"

#include "kernels/moe_limits.h"

namespace fathom {

MoeKernel choose_moe(const MoeProblem& p) {
  const bool fp8 = p.weight == WeightFormat::kFp8Block && p.act == ActFormat::kFp8Block;
  const bool bf16 = p.weight == WeightFormat::kBF16 && p.act == ActFormat::kBF16;
  const int64_t block = fp8 ? 128 : 64;  // columns of a row's 128 bytes
  const bool shape = p.hidden % 128 == 0 && p.width % 128 == 0 && p.hidden % block == 0 &&
                     p.first_column_in_block == 0;
  const bool few = p.tokens <= kernels::kMoeDecodeTokensMax &&
                   p.tokens * p.experts_per_token <= kernels::kMoeDecodePairsMax &&
                   p.experts <= kernels::kMoeDecodeExpertsMax && p.experts_here > 0;
  return (fp8 || bf16) && shape && few ? MoeKernel::kFewTokens : MoeKernel::kPlain;
}

}  // namespace fathom
