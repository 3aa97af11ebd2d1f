// The wide product's shapes and splits: every one that fits is given a time, the least is taken.
#include "ops/cuda/choose_wide.h"

#include <algorithm>

namespace fathom {
namespace {

using kernels::kWideBlockBytes;
using kernels::kWideSplitMax;
using kernels::kWideTokens;
using kernels::WidePlan;
using kernels::WideShapeOf;

// Clusters of so many blocks that run at once on an H100, a block an SM
// (cudaOccupancyMaxActiveClusters): its groups of SMs are of unequal size.
constexpr int32_t kClustersAtOnce[kWideSplitMax + 1] = {0, 132, 66, 39, 30};
constexpr int64_t kStepsMin = 4;  // of a block, where K is split
constexpr int32_t kWideStagesMin = 3;

int64_t parts(int64_t n, int64_t of) { return (n + of - 1) / of; }

int32_t stages_of(const WidePlan& plan, bool pair) {
  const int32_t room = pair ? kernels::kWideSharedHalf : kernels::kWideSharedMax;
  int32_t stages = 1;
  while (stages < kernels::kWideStagesMax && kernels::wide_shared_bytes(plan, stages + 1) <= room) {
    ++stages;
  }
  return stages;
}

// Microseconds on an H100, fitted to measurements (docs/kernels/wide_gemm.md): what W takes from
// memory, W and x from the second-level cache, an SM's share of both, or an SM's e4m3 products,
// whichever is most; then starts and the sums that cross a cluster.
double microseconds(const GemmProblem& p, const WideShapeOf& shape, const WidePlan& plan) {
  const bool fp8 = shape.fp8;
  const int64_t rows_of_tile = shape.columns * shape.parts;
  const int64_t token_blocks = parts(p.rows, kWideTokens);
  const int64_t clusters = parts(p.out, rows_of_tile) * token_blocks;
  const int64_t at_once = int64_t{kClustersAtOnce[plan.split]} * (shape.pair ? 2 : 1);
  const auto waves = static_cast<double>(parts(clusters, at_once));
  const int64_t on_an_sm = shape.pair && clusters * plan.split > p.sms ? 2 : 1;
  const double steps = static_cast<double>(p.in * (fp8 ? 1 : 2)) / kWideBlockBytes / plan.split;
  const double w_bytes = static_cast<double>(p.out) * static_cast<double>(p.in) * (fp8 ? 1 : 2);
  const auto row_bytes = static_cast<double>(p.in * (fp8 ? 1 : 2));
  const double x_bytes =
      static_cast<double>(clusters * std::min<int64_t>(p.rows, kWideTokens)) * row_bytes;
  const double reads = waves > 1.0 ? static_cast<double>(token_blocks) : 1.0;
  const double sm_bytes =
      steps * static_cast<double>((rows_of_tile + kWideTokens) * kWideBlockBytes * on_an_sm);
  const double products = fp8 ? 0.72 * steps * shape.parts : 0.0;
  const double sent =
      static_cast<double>(kWideTokens * rows_of_tile * 4 * (plan.split - 1)) / plan.split / 15e3;
  const double way = std::max({w_bytes * reads / 3.0e6,
                               (w_bytes * static_cast<double>(token_blocks) + x_bytes) / 8e6,
                               waves * sm_bytes / 70e3, waves * products});
  return way + waves * (fp8 ? 4.5 : 3.0) + sent;
}

}  // namespace

std::optional<WideChoice> choose_wide(const GemmProblem& p) {
  const bool fp8 = p.weight == WeightFormat::kFp8Block;
  const int64_t k_blocks = parts(p.in * (fp8 ? 1 : 2), kWideBlockBytes);
  if (!p.out_in_vectors || p.out % (p.gated ? 16 : 8) != 0) return std::nullopt;
  std::optional<WideChoice> best;
  for (const WideShapeOf& shape : kernels::kWideShapes) {
    if (shape.fp8 != fp8 || (p.gated && shape.parts != 2)) continue;
    for (int32_t split = 1; split <= kWideSplitMax; ++split) {
      if (split > 1 && k_blocks < split * kStepsMin) break;
      WideChoice choice;
      choice.plan.columns = shape.columns;
      choice.plan.parts = shape.parts;
      choice.plan.split = split;
      choice.plan.stages = stages_of(choice.plan, shape.pair);
      if (choice.plan.stages < kWideStagesMin) continue;
      choice.us = microseconds(p, shape, choice.plan);
      if (!best || choice.us < best->us) best = choice;
    }
  }
  return best;
}

}  // namespace fathom
