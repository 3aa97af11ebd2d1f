// The tall product's tiles: every kind that fits the problem is given a time, the least is taken.
#include "ops/cuda/choose_tall.h"

#include <algorithm>

namespace fathom {
namespace {

using kernels::kTallTokens;
using kernels::TallPairing;
using kernels::TallPlan;

constexpr int64_t kRowsMin = 65;
constexpr int64_t kRowsMax = 512;
constexpr int64_t kStepsMin = 4;  // of a block, where K is split
// Up to so many rows smaller weights are the skinny kernel's: 2048 x 2048 takes 6.3 us in either.
constexpr int64_t kSkinnyRowsMax = 256;
constexpr int64_t kWeightMin = 5'000'000;
// Microseconds on an H100: heads made ready by a kernel of their own, and by the product, one or
// two in a tile.
constexpr double kHeadsUs = 2.6;
constexpr double kHeadsUsPerRow = 0.009;
constexpr double kHeadEndUs = 2.0;
constexpr double kTwoHeadsEndUs = 3.6;

int64_t parts(int64_t n, int64_t of) { return (n + of - 1) / of; }

int32_t stages_of(const TallPlan& plan) {
  int32_t stages = 1;
  while (stages < kernels::kTallStagesMax &&
         kernels::tall_shared_bytes(plan, stages + 1) <= kernels::kTallSharedMax) {
    ++stages;
  }
  return stages;
}

// Microseconds on an H100, fitted to measurements (docs/kernels/tall_gemm.md): a block's steps,
// which take longer where all SMs work, and the end of each of its tiles; no less than W's bytes.
double microseconds(const TallProblem& p, const TallPlan& plan) {
  const bool split = plan.pairing == TallPairing::kSplit;
  const int64_t columns = p.gated ? p.out / 2 : p.out;
  const int64_t tile_columns = p.gated ? plan.columns / 2 : plan.columns;
  int64_t token_tiles = parts(p.rows, plan.token_step);
  if (plan.pairing == TallPairing::kTokens) token_tiles = parts(token_tiles, 2) * 2;
  const int64_t blocks = parts(columns, tile_columns) * token_tiles * (split ? 2 : 1);
  const auto rounds = static_cast<double>(parts(blocks, p.sms));
  const double busy = std::min(1.0, static_cast<double>(blocks) / p.sms);
  const double alone = plan.columns == 256 ? 0.69 : plan.columns == 128 ? 0.403 : 0.328;
  const double step = alone * (1.0 + 0.3 * std::max(0.0, busy - 0.5)) * (split ? 1.08 : 1.0);
  const auto steps = static_cast<double>(parts(p.in, 128)) / (split ? 2.0 : 1.0);
  const double end =
      (plan.columns == 256 ? 1.6 : 1.0) * (p.gated ? 1.6 : 1.0) + (split ? 1.0 : 0.0);
  const double bytes = static_cast<double>(p.out * p.in);
  return std::max(rounds * (steps * step + end), bytes / 3.0e6 + 1.5) + 2.2;
}

// cuBLASLt's, with what turns x's scales for it: waves of tiles of 128 x 128.
double library_us(const TallProblem& p) {
  const auto waves = static_cast<double>(parts(parts(p.out, 128) * parts(p.rows, 128), p.sms));
  const double bytes = static_cast<double>(p.out * p.in);
  return std::max(waves * static_cast<double>(parts(p.in, 128)) * 0.385, bytes / 2.4e6) + 5.5;
}

TallPlan plan_of(const TallProblem& p, int32_t columns, TallPairing pairing) {
  TallPlan plan;
  plan.columns = columns;
  plan.pairing = pairing;
  plan.multicast = pairing == TallPairing::kColumns || pairing == TallPairing::kTokens;
  plan.token_step = static_cast<int32_t>(parts(parts(p.rows, parts(p.rows, kTallTokens)), 16) * 16);
  plan.stages = stages_of(plan);
  return plan;
}

bool runs(const TallProblem& p) {
  return p.hopper && !p.deterministic && p.whole_blocks && p.aligned && p.in % 16 == 0 &&
         p.rows >= kRowsMin && p.rows <= kRowsMax;
}

}  // namespace

std::optional<TallPlan> choose_tall(const TallProblem& p) {
  if (!runs(p) || (p.gated && p.out % 256 != 0)) return std::nullopt;
  if (p.rows <= kSkinnyRowsMax && p.out * p.in < kWeightMin) return std::nullopt;
  const bool even = parts(p.rows, kTallTokens) % 2 == 0;
  std::optional<TallPlan> best;
  double least = 0.0;
  const auto consider = [&](int32_t columns, TallPairing pairing) {
    const TallPlan plan = plan_of(p, columns, pairing);
    const double us = microseconds(p, plan);
    if (best && us >= least) return;
    best = plan;
    least = us;
  };
  const TallPairing wide = even ? TallPairing::kTokens : TallPairing::kAlone;
  consider(256, wide);
  if (p.gated) {
    consider(128, TallPairing::kColumns);
    return best;
  }
  consider(128, wide);
  if (parts(p.in, 128) >= 2 * kStepsMin) consider(128, TallPairing::kSplit);
  consider(96, wide);
  if (least > 1.05 * library_us(p)) return std::nullopt;
  return best;
}

std::optional<TallPlan> choose_tall_heads(const TallProblem& p) {
  if (!runs(p) || p.gated || p.out % 128 != 0 || p.rows > kernels::kTallHeadTokens) {
    return std::nullopt;
  }
  const bool even = parts(p.rows, kTallTokens) % 2 == 0;
  const double heads_us = kHeadsUs + kHeadsUsPerRow * static_cast<double>(p.rows);
  std::optional<TallPlan> best;
  double least = tall_or_library_us(p) + heads_us;
  for (const int32_t columns : {128, 256}) {
    TallPlan plan = plan_of(p, columns, even ? TallPairing::kTokens : TallPairing::kAlone);
    plan.heads = true;
    plan.stages = stages_of(plan);
    const double us = microseconds(p, plan) + (columns == 128 ? kHeadEndUs : kTwoHeadsEndUs);
    if (us >= least) continue;
    best = plan;
    least = us;
  }
  return best;
}

double tall_or_library_us(const TallProblem& p) {
  const std::optional<TallPlan> plan = choose_tall(p);
  // Behind cuBLASLt the gate has a kernel of its own.
  const double gate_us = p.gated ? static_cast<double>(p.rows * p.out) * 3.0 / 2.2e6 + 3.0 : 0.0;
  return plan ? microseconds(p, *plan) : library_us(p) + gate_us;
}

}  // namespace fathom
