// Tiles of the grouped products, known to choosers, which see no CUDA.
#pragma once

#include <cstdint>

namespace fathom::kernels {

inline constexpr int32_t kGroupedTileRows = 128;  // pairs of one expert in a tile, at most
inline constexpr int32_t kPairedTileRows = 144;   // in one of two tiles that share their weights

// Whether blocks work in twos, so that weights leave the cache once for two tiles: in e4m3, where
// an expert has rows for both. Blocks of one with many more find its weights in the cache anyway.
constexpr bool grouped_pairs_blocks(bool fp8, int64_t pairs, int64_t experts) {
  return fp8 && pairs >= kGroupedTileRows * experts && pairs < 4 * kGroupedTileRows * experts;
}

// Twos of tiles for `rows` rows of one expert: whole ones of 256 rows, and a last one that may have
// up to 288.
constexpr int32_t grouped_paired_tiles(int64_t rows) {
  constexpr int64_t kWhole = 2 * kGroupedTileRows;
  constexpr int64_t kMore = 2 * (kPairedTileRows - kGroupedTileRows);
  return static_cast<int32_t>(rows <= kWhole ? 1 : (rows - kMore + kWhole - 1) / kWhole);
}

inline int32_t grouped_shared_tiles(int64_t tokens, bool paired) {
  return paired ? 2 * grouped_paired_tiles(tokens)
                : static_cast<int32_t>((tokens + kGroupedTileRows - 1) / kGroupedTileRows);
}

// Room for the tiles of `pairs` over `experts` experts, but for the shared one's.
inline int64_t grouped_tiles_max(int64_t pairs, int64_t experts, bool paired) {
  if (paired) return 2 * (pairs < experts ? pairs : experts) + pairs / kGroupedTileRows;
  const int64_t all = experts + pairs / kGroupedTileRows;
  return pairs < all ? pairs : all;
}

}  // namespace fathom::kernels
