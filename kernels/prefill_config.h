// Whether the tensor cores' prefill attention takes a model's shape, and how a step's rows are cut
// into tiles and slices: pure host arithmetic, no CUDA, tested without a GPU. Every figure depends
// on shapes that the host knows, never on a sequence's length.
#pragma once

#include <algorithm>
#include <cstdint>

namespace fathom::kernels {

inline constexpr int32_t kPrefillQueryTile = 128;  // tokens of one row that a block works on
inline constexpr int32_t kPrefillKeyTile = 128;    // cached tokens of one step of its loop
inline constexpr int32_t kPrefillBlockTokens = 64;

// Query tiles that any division of `tokens` over `rows` rows may take.
inline int32_t prefill_tiles_max(int32_t rows, int64_t tokens) {
  return static_cast<int32_t>(tokens / kPrefillQueryTile) + rows;
}

inline constexpr int32_t kPrefillCarryFloats = 68 * 256;           // of a tile and head
inline constexpr int64_t kPrefillSliceBytes = int64_t{132} << 20;  // MLA, 16 heads: 132 tiles
inline constexpr int64_t kPrefillCarryBytes = int64_t{128} << 20;  // unless one group takes more

// Tiles of 128 cached tokens that any `rows` rows of up to `context_tokens_max` may take.
inline int64_t prefill_key_tiles_max(int32_t rows, int32_t context_tokens_max) {
  const int64_t each = (int64_t{context_tokens_max} + kPrefillKeyTile - 1) / kPrefillKeyTile;
  return std::max<int64_t>(1, each * rows);
}

// Grouped-query attention over cached keys and values.
struct GqaPrefillDesc {
  int32_t heads = 0;
  int32_t kv_heads = 0;
  int32_t head_dims = 0;
  int32_t block_tokens = 64;
  bool bf16 = true;  // queries; the cache too, or e4m3
  bool fp8_cache = false;
};

inline bool gqa_prefill_fits(const GqaPrefillDesc& d) {
  return d.bf16 && d.block_tokens == kPrefillBlockTokens && d.kv_heads > 0 &&
         d.heads % d.kv_heads == 0 && (d.head_dims == 64 || d.head_dims == 128);
}

// Over an e4m3 cache: keys and values of `slice_tiles` tiles of cached tokens and `kv_heads` heads
// become bf16 at a time. Contexts lie, and a cut row carries, as in MlaPrefillPlan.
struct GqaSpreadPlan {
  int32_t kv_heads = 0;  // of a group; divides the model's
  int32_t heads = 0;     // query heads of the group
  int32_t head_dims = 0;
  int32_t slice_tiles = 0;
  int32_t slices = 0;
  int32_t query_tiles = 0;

  int64_t slice_tokens() const { return int64_t{slice_tiles} * kPrefillKeyTile; }
  // bf16 numbers: keys of all heads of the group, then values.
  int64_t spread_numbers() const { return slice_tokens() * 2 * kv_heads * head_dims; }
  // Floats; none when nothing is cut.
  int64_t carry_floats() const {
    return slices > 1 ? int64_t{query_tiles} * heads * kPrefillCarryFloats : 0;
  }
};

// Of `rows` prefill rows with `tokens` tokens, whose contexts are up to `context_tokens_max`.
inline GqaSpreadPlan plan_gqa_spread(const GqaPrefillDesc& d, int32_t rows, int64_t tokens,
                                     int32_t context_tokens_max,
                                     int64_t slice_bytes = kPrefillSliceBytes) {
  GqaSpreadPlan p;
  p.head_dims = d.head_dims;
  p.query_tiles = prefill_tiles_max(rows, tokens);
  const int64_t all_tiles = prefill_key_tiles_max(rows, context_tokens_max);
  const auto cut = [&](int32_t kv_heads) {
    const int64_t tile_bytes = int64_t{kPrefillKeyTile} * 2 * kv_heads * d.head_dims * 2;
    p.kv_heads = kv_heads;
    p.heads = d.heads / d.kv_heads * kv_heads;
    p.slice_tiles =
        static_cast<int32_t>(std::clamp<int64_t>(slice_bytes / tile_bytes, 1, all_tiles));
    p.slices = static_cast<int32_t>((all_tiles + p.slice_tiles - 1) / p.slice_tiles);
  };
  cut(d.kv_heads);
  while (p.kv_heads % 2 == 0 && p.carry_floats() * 4 > kPrefillCarryBytes) cut(p.kv_heads / 2);
  return p;
}

// Multi-head latent attention whose keys and values are made from the latents (naive form).
struct MlaPrefillDesc {
  int32_t rows = 0;                // prefill rows
  int64_t tokens = 0;              // of prefill rows, at most
  int32_t context_tokens_max = 0;  // of any row, these tokens included
  int64_t context_tokens = 0;      // of all rows together; 0: not known
  int32_t heads = 0;
  int32_t nope_dims = 128;
  int32_t rope_dims = 64;
  int32_t value_dims = 128;
  int32_t kv_lora = 512;
  int32_t block_tokens = 64;
  bool bf16 = true;  // queries and up-projections; the cache too, or e4m3
  bool fp8_cache = false;
  // The context of few queries may be cut among blocks of threads, where that fills the GPU: sums
  // in another order than one block's.
  bool may_split = false;
  int32_t multiprocessors = 132;
};

// Keys and values of `slice_tiles` tiles of cached tokens and `heads` heads are made at a time. The
// rows' contexts lie one behind the other, each rounded up to whole tiles; a row that a slice's end
// cuts carries its running softmax to the next slice, so that the cut changes no bit. With splits,
// each of a tile's blocks takes one share of every slice's keys and carries a state of its own; a
// last kernel puts them together.
struct MlaPrefillPlan {
  bool fits = false;
  int32_t heads = 0;  // of a group; divides the model's
  int32_t slice_tiles = 0;
  int32_t slices = 0;
  int32_t query_tiles = 0;
  int32_t splits = 1;
  int64_t tiles = 0;  // of cached tokens, all rows', at most

  // The last slice may have fewer.
  int32_t tiles_of(int32_t slice) const {
    const int64_t left = tiles - int64_t{slice} * slice_tiles;
    return static_cast<int32_t>(std::min<int64_t>(slice_tiles, left));
  }
  int64_t slice_tokens() const { return int64_t{slice_tiles} * kPrefillKeyTile; }
  // bf16 numbers: keys of all heads of the group, then values.
  int64_t expanded_numbers() const { return slice_tokens() * heads * 256; }
  // bf16 numbers: a slice's entries, where the cache is e4m3.
  int64_t spread_numbers() const { return slice_tokens() * 576; }
  // Floats; none when nothing is cut.
  int64_t carry_floats() const {
    if (slices == 1 && splits == 1) return 0;
    return int64_t{splits} * query_tiles * heads * kPrefillCarryFloats;
  }
};

inline constexpr int32_t kPrefillGroupHeads = 16;
inline constexpr int64_t kPrefillSplitBytes = int64_t{48} << 20;
inline constexpr int32_t kPrefillSplitsMax = 8;
inline constexpr int32_t kPrefillSplitTiles = 8;  // fewer key tiles are not worth another block

// Blocks of threads that share the expansion of each of `tiles` tiles: rounds of blocks, each of
// which makes its share after it has read the tile's latents. `heads_max`: keys' and values'.
inline int32_t choose_expand_parts(int32_t tiles, int32_t multiprocessors, int32_t heads_max) {
  constexpr double kStart = 0.03;  // of the time that one block takes for a whole tile
  int32_t best = 1;
  double least = 0.0;
  for (int32_t parts = 1; parts <= heads_max; ++parts) {
    const int32_t rounds = (tiles * parts + multiprocessors - 1) / multiprocessors;
    const double cost = rounds * (1.0 / parts + kStart);
    if (parts > 1 && cost >= least) continue;
    least = cost;
    best = parts;
  }
  return best;
}

// Into how many shares the keys of each of `blocks` tiles are best cut: the rounds that they take,
// over the shares, and what a share costs to begin and to put together.
inline int32_t choose_prefill_splits(int64_t blocks, int32_t multiprocessors, int32_t splits_max) {
  int32_t best = 1;
  double least = 0.0;
  for (int32_t n = 1; n <= splits_max; ++n) {
    const int64_t rounds = (blocks * n + multiprocessors - 1) / multiprocessors;
    const double cost = static_cast<double>(rounds) / n + 0.01 * (n - 1);
    if (n > 1 && cost >= least) continue;
    least = cost;
    best = n;
  }
  return best;
}

inline MlaPrefillPlan plan_mla_prefill(const MlaPrefillDesc& d,
                                       int64_t slice_bytes = kPrefillSliceBytes) {
  MlaPrefillPlan p;
  p.fits = d.bf16 && d.nope_dims == 128 && d.rope_dims == 64 && d.value_dims == 128 &&
           d.kv_lora == 512 && d.block_tokens == kPrefillBlockTokens && d.heads > 0 && d.rows > 0;
  if (!p.fits) return p;
  p.query_tiles = prefill_tiles_max(d.rows, d.tokens);
  int64_t all_tiles = prefill_key_tiles_max(d.rows, d.context_tokens_max);
  if (d.context_tokens > 0)
    all_tiles = std::min(all_tiles, d.context_tokens / kPrefillKeyTile + d.rows);
  p.tiles = all_tiles;
  const auto cut = [&](int32_t heads) {
    const int64_t tile_bytes = int64_t{kPrefillKeyTile} * heads * 256 * 2;
    p.heads = heads;
    p.slice_tiles =
        static_cast<int32_t>(std::clamp<int64_t>(slice_bytes / tile_bytes, 1, all_tiles));
    p.slices = static_cast<int32_t>((all_tiles + p.slice_tiles - 1) / p.slice_tiles);
  };
  cut(d.heads);
  while (p.heads % 2 == 0 &&
         (p.heads > kPrefillGroupHeads || p.carry_floats() * 4 > kPrefillCarryBytes))
    cut(p.heads / 2);
  if (!d.may_split) return p;
  // Tiles that hold queries: the bound above counts one more.
  const int64_t tiles =
      std::max<int64_t>(d.rows, (d.tokens + kPrefillQueryTile - 1) / kPrefillQueryTile);
  const int64_t state_bytes = int64_t{p.query_tiles} * p.heads * kPrefillCarryFloats * 4;
  const int64_t splits_max =
      std::min({int64_t{kPrefillSplitsMax},
                prefill_key_tiles_max(1, d.context_tokens_max) / kPrefillSplitTiles,
                kPrefillSplitBytes / state_bytes});
  p.splits = choose_prefill_splits(tiles * p.heads, d.multiprocessors,
                                   static_cast<int32_t>(std::max<int64_t>(1, splits_max)));
  return p;
}

}  // namespace fathom::kernels
