// Tiles of the product of many rows, known to choosers, which see no CUDA.
#pragma once

#include <cstdint>

namespace fathom::kernels {

inline constexpr int32_t kManyTileRows = 128;     // of x, a block's
inline constexpr int32_t kManyTileColumns = 256;  // of the output; gated: 128 and 128
inline constexpr int32_t kManyStages = 4;
// Tiles of rows that go with one tile of W before the next: their rows of x stay in the cache.
inline constexpr int32_t kManyBand = 32;

// Whole blocks of 128 by 128, and scales that come in fours.
constexpr bool many_gemm_fits(int64_t out, int64_t in, bool gated) {
  return out > 0 && out % (gated ? 256 : 128) == 0 && in > 0 && in % (128 * kManyStages) == 0;
}

}  // namespace fathom::kernels
