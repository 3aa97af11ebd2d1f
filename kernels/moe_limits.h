// Bounds of the kernels for few tokens of a mixture of experts; known to choosers, which see no
// CUDA.
#pragma once

#include <cstdint>

namespace fathom::kernels {

inline constexpr int32_t kMoeDecodeTokensMax = 64;
inline constexpr int32_t kMoeDecodePairsMax = 512;
inline constexpr int32_t kMoeExpertsMax = 512;
inline constexpr int32_t kMoeTileTokens = 8;  // tokens of one expert that share a pass

// At most so many tiles for `pairs` (token, choice) pairs over `experts` experts.
inline int32_t moe_tiles_max(int32_t pairs, int32_t experts) {
  const int32_t all = experts + pairs / kMoeTileTokens;
  return pairs < all ? pairs : all;
}

}  // namespace fathom::kernels
