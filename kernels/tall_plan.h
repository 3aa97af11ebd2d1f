// How a tall product is run, and what that takes. No CUDA here: the chooser is tested without.
#pragma once

#include <cstdint>

namespace fathom::kernels {

constexpr int32_t kTallTokens = 128;  // rows of x that a tile has room for
constexpr int32_t kTallBytes = 128;   // of a row of W or x, in one step of the pipeline
constexpr int32_t kTallStagesMax = 8;
constexpr int32_t kTallHeadTokens = 512;  // most whose heads are made ready
constexpr int32_t kTallHeadDims = 128;
constexpr int32_t kTallSharedMax = 232448;  // an SM's 228 KiB less 1 KiB of the system's

// What the two blocks of a cluster have of one product: halves of a tile's K, two tiles side by
// side of one tile of tokens, whose x they share, or of two tiles of tokens, whose W they share.
enum class TallPairing : int32_t { kAlone, kSplit, kColumns, kTokens };

struct TallPlan {
  int32_t columns = 128;  // rows of W in a tile: 96, 128 or 256
  TallPairing pairing = TallPairing::kAlone;
  bool multicast = false;  // what is shared leaves the cache once
  int32_t token_step = 0;  // rows of x of a tile, a multiple of 8; of 16 where x is shared
  int32_t stages = 0;      // steps in flight in a block
  bool heads = false;      // qkv's heads are made ready for attention
};

// Where a token stands, and its entry of the cache, counted over all blocks; -1: padding.
struct TallPlace {
  int32_t position;
  int32_t entry;
};

// Shared memory of a block, with what brings it to a multiple of 1024 bytes.
constexpr int32_t tall_shared_bytes(const TallPlan& plan, int32_t stages) {
  const int32_t stage = (plan.columns + kTallTokens) * kTallBytes + (kTallTokens + 4) * 4 + 16;
  const int32_t staged = kTallTokens * 144;
  const int32_t received = plan.pairing == TallPairing::kSplit ? kTallTokens * 64 * 4 : 0;
  const int32_t largest = 2 * kTallTokens * 4;
  const int32_t places = plan.heads ? kTallHeadTokens * static_cast<int32_t>(sizeof(TallPlace)) : 0;
  return 1024 + stages * stage + staged + received + largest + 32 + places;
}

}  // namespace fathom::kernels
