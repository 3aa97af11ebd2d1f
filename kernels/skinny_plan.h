// How a skinny product is run, and what that takes. No CUDA here: the chooser is tested without.
#pragma once

#include <cstdint>

namespace fathom::kernels {

constexpr int32_t kSkinnyTileRows = 128;    // rows of W a block works on
constexpr int32_t kSkinnyBlockBytes = 128;  // of a row of W or x, in one step of the pipeline
constexpr int32_t kSkinnyTokensMax = 64;    // rows of x in one launch
constexpr int32_t kSkinnySplitMax = 8;      // blocks of a cluster

// Half of an SM's 228 KiB, less 1 KiB of the system's: a product's block and the next one's beside.
constexpr int32_t kSkinnySharedMax = 233472 / 2 - 1024;

struct SkinnyPlan {
  int32_t token_tile = 0;  // 8, 16, 32 or 64: most rows of x
  int32_t split = 1;       // 1, 2, 4 or 8: blocks that share K of a tile
  int32_t stages = 0;      // steps in flight in a block
  bool overlap = true;     // start before the stream's last kernel ends, and load weights meanwhile
};

// Shared memory of a block: the ring's stages and what the tile's other blocks send.
constexpr int32_t skinny_shared_bytes(int32_t token_tile, int32_t split, int32_t stages) {
  const int32_t tiles = (kSkinnyTileRows + token_tile) * kSkinnyBlockBytes;
  const int32_t scales = (kSkinnyTileRows + token_tile) * 4;
  const int32_t barriers = 16;
  const int32_t sums = split > 1 ? kSkinnyTileRows * token_tile * 4 : 0;
  return stages * (tiles + scales + barriers) + sums + 8;
}

}  // namespace fathom::kernels
