// The cheaper form by its operations, at the rates that its kernels reach (flops a microsecond;
// docs/kernels/prefill_attention.md).
#include "ops/cuda/choose_mla_prefill.h"

namespace fathom {
namespace {

constexpr double kExpandRate = 590e6;
constexpr double kNaiveRate = 560e6;
constexpr double kAbsorbedRate = 600e6;

// Of a head: operations of a (query, key) pair, and of making a token's key and value.
constexpr double kNaivePair = 2 * (128 + 64 + 128);
constexpr double kAbsorbedPair = 2 * (512 + 64 + 512);
constexpr double kExpand = 2 * 512 * (128 + 128);

// Both work on tiles: of 128 tokens, and of 128 (token, head) pairs.
constexpr int64_t kTile = 128;
constexpr int64_t kSliceKeys = 16 * 16'896;  // of all heads, that are expanded at a time
constexpr double kSliceUs = 12.0;            // its two launches
constexpr double kAbsorbedUs = 22.0;         // projections, a short attention, the merge

int64_t tiles(int64_t n, int64_t tile) { return (n + tile - 1) / tile; }

}  // namespace

MlaPrefillForm choose_mla_prefill(const MlaPrefillProblem& p) {
  if (p.deterministic || p.context_tokens == 0 || p.tokens_max > kMlaAbsorbedTokensMax ||
      p.step_tokens * p.heads > kMlaAbsorbedPairsMax) {
    return MlaPrefillForm::kNaive;
  }
  const auto context = static_cast<double>(p.context_tokens);
  const double keys = context * p.heads;
  const double naive_pairs = keys * static_cast<double>(tiles(p.tokens_max, kTile) * kTile);
  const double naive_us =
      keys * kExpand / kExpandRate + naive_pairs * kNaivePair / kNaiveRate +
      kSliceUs * static_cast<double>(tiles(p.context_tokens * p.heads, kSliceKeys));
  const int64_t pairs = tiles(int64_t{p.tokens_max} * p.heads, kTile) * kTile;
  const double absorbed_us =
      context * static_cast<double>(pairs) * kAbsorbedPair / kAbsorbedRate + kAbsorbedUs;
  return absorbed_us < naive_us ? MlaPrefillForm::kAbsorbed : MlaPrefillForm::kNaive;
}

}  // namespace fathom
