// How a skinny product is run, and what that takes. No CUDA here: the chooser is tested without.
#pragma once

#include <cstdint>

namespace fathom::kernels {

constexpr int32_t kSkinnyTileRows = 128;      // most rows of W that a block works on
constexpr int32_t kSkinnyBlockBytes = 128;    // of a row of W or x, in one step of the pipeline
constexpr int32_t kSkinnyTokensMax = 64;      // rows of x in one launch
constexpr int32_t kSkinnyTokensWide = 128;    // likewise, of e4m3 and tiles of 64 rows of W
constexpr int32_t kSkinnyTokenBlocksMax = 2;  // of such tiles, beside each other in one launch
constexpr int32_t kSkinnySplitMax = 8;        // blocks of a cluster
constexpr int32_t kSkinnyStagesEarly = 2;     // of a ring, asked for ahead of the kernel's turn
constexpr int32_t kSkinnyStepsLate = 3;       // of a block, asked for after its turn

// Half of an SM's 228 KiB, less 1 KiB of the system's: a product's block and the next one's beside.
constexpr int32_t kSkinnySharedMax = 233472 / 2 - 1024;

struct SkinnyPlan {
  int32_t token_tile = 0;               // 8, 16, 32, 64 or 128: most rows of x
  int32_t tile_rows = kSkinnyTileRows;  // or 64: rows of W that a block works on
  int32_t token_blocks = 1;             // of token_tile rows each, that read W beside each other
  int32_t split = 1;                    // 1, 2, 4 or (of 128 rows) 8: blocks that share a tile's K
  int32_t stages = 0;                   // steps in flight in a block
  bool overlap = true;  // start before the stream's last kernel ends, and load weights meanwhile
  bool overlap_next = true;  // let the next one start at once, else behind our last weights
};

// Shared memory of a block: the ring's stages and what the tile's other blocks send.
constexpr int32_t skinny_shared_bytes(const SkinnyPlan& plan, int32_t stages) {
  const int32_t tiles = (plan.tile_rows + plan.token_tile) * kSkinnyBlockBytes;
  const int32_t scales = (plan.tile_rows + plan.token_tile) * 4;
  const int32_t barriers = 16;
  const int32_t sums = plan.split > 1 ? plan.tile_rows * plan.token_tile * 4 : 0;
  return stages * (tiles + scales + barriers) + sums + 8;
}

}  // namespace fathom::kernels
