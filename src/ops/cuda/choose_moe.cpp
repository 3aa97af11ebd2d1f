// Bounds of the kernels for few tokens and of the grouped products.
#include "ops/cuda/choose_moe.h"

#include "kernels/moe_limits.h"

namespace fathom {
namespace {

// Whole scale blocks, in formats that the tensor cores multiply.
bool tensor_core_shape(const MoeProblem& p) {
  const bool fp8 = p.weight == WeightFormat::kFp8Block && p.act == ActFormat::kFp8Block;
  const bool bf16 = p.weight == WeightFormat::kBF16 && p.act == ActFormat::kBF16;
  return p.hopper && (fp8 || bf16) && p.hidden % 128 == 0 && p.width % 128 == 0 &&
         p.first_column_in_block == 0;
}

// The grouped products read a chosen expert's weights once, however few its rows. From here on they
// are faster than tiles of eight tokens: V3's layer takes 2.45 ms with 32 tokens, not 2.63.
constexpr int64_t kGroupedTokensMin = 17;

}  // namespace

bool suits_grouped(const MoeProblem& p) {
  return tensor_core_shape(p) && p.scale_rows_aligned && p.experts_here > 0 &&
         p.experts <= kernels::kMoeExpertsMax;
}

MoeKernel choose_moe(const MoeProblem& p) {
  const bool few = !p.deterministic && p.tokens <= kernels::kMoeDecodeTokensMax &&
                   p.tokens * p.experts_per_token <= kernels::kMoeDecodePairsMax &&
                   p.experts <= kernels::kMoeExpertsMax && p.experts_here > 0;
  if (suits_grouped(p) && (!few || p.tokens >= kGroupedTokensMin)) return MoeKernel::kGrouped;
  return tensor_core_shape(p) && few ? MoeKernel::kFewTokens : MoeKernel::kPlain;
}

bool few_tokens_fit(const MoeFewProblem& p) {
  if (p.tokens < 1 || p.tokens > kernels::kMoeFewTokensMax) return false;
  const auto tokens = static_cast<int32_t>(p.tokens);
  const auto fits = [&](int64_t columns, int32_t token_sets) {
    const auto bytes = static_cast<int32_t>(p.fp8 ? columns : 2 * columns);
    return kernels::moe_few_plan(tokens, p.experts_here, p.experts, bytes, token_sets).stages > 0;
  };
  return fits(p.hidden, 1) && fits(p.width, 2);
}

}  // namespace fathom
