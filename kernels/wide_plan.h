// How a wide product is run, and what that takes. No CUDA here: the chooser is tested without.
#pragma once

#include <cstdint>

namespace fathom::kernels {

constexpr int32_t kWideTokens = 128;      // rows of x that a block works on
constexpr int32_t kWideBlockBytes = 128;  // of a row of W or x, in one step of the pipeline
constexpr int32_t kWideSplitMax = 4;      // blocks of a cluster
constexpr int32_t kWideStagesMax = 8;
// An SM's 228 KiB less 1 KiB of the system's, for one block or for two.
constexpr int32_t kWideSharedMax = 232448;
constexpr int32_t kWideSharedHalf = 233472 / 2 - 1024;

// The kernel's shapes, an instance each: `parts` of `columns` rows of W are a tile. Of a gated
// product the second part is the gates' partners. `pair`: two blocks fit an SM.
struct WideShapeOf {
  bool fp8;
  int32_t columns;
  int32_t parts;
  bool pair;
};
inline constexpr WideShapeOf kWideShapes[] = {
    {false, 56, 2, true},  {false, 112, 1, false}, {false, 96, 1, false},
    {false, 72, 1, false}, {true, 112, 2, false},  {true, 112, 1, false},
};

struct WidePlan {
  int32_t columns = 0;
  int32_t parts = 1;
  int32_t split = 1;    // blocks of a cluster, which share a tile's K
  int32_t stages = 0;   // steps in flight in a block
  bool overlap = true;  // start before the stream's last kernel ends, and load weights meanwhile
};

// Groups of eight columns that one block of the cluster adds.
constexpr int32_t wide_groups_each(const WidePlan& plan) {
  return (plan.columns / 8 + plan.split - 1) / plan.split;
}

// Shared memory of a block: the ring's stages and what the tile's other blocks send.
constexpr int32_t wide_shared_bytes(const WidePlan& plan, int32_t stages) {
  const int32_t rows = plan.columns * plan.parts;
  const int32_t warps = kWideTokens / 16;
  const int32_t sums = (plan.split - 1) * warps * wide_groups_each(plan) * plan.parts * 512;
  return stages * ((rows + kWideTokens) * (kWideBlockBytes + 4) + 16) + sums + 16;
}

}  // namespace fathom::kernels
