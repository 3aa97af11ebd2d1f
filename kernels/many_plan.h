// Tiles of the product of many rows, and how what is left of its last round is shared out. Known to
// choosers, which see no CUDA.
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

// In bf16: whole tiles.
constexpr bool many_exact_fits(int64_t out, int64_t in) {
  return many_gemm_fits(out, in, false) && out % kManyTileColumns == 0;
}

// Items of a product go round the twos of blocks; those that are left for the last round may be
// shared: `helpers`, the first twos, do the first `turns` of the K of what is left before all else
// and leave their sums in memory; each other two has one item's other turns, last.
struct ManySplit {
  int32_t whole = 0;    // items that are nobody's but a two's
  int32_t tail = 0;     // shared items
  int32_t helpers = 0;  // twos
  int32_t helped = 0;   // shared items of a helper, one less of some
  int32_t turns = 0;    // of a shared item, its helper's
};

// Turns of the ring that handing sums over takes the time of, both ways.
inline constexpr int32_t kManyJoinTurns = 3;
// Shared items of one helper: each leaves sums.
inline constexpr int32_t kManyHelpedMax = 3;

// `turns`: of the ring, in an item.
constexpr ManySplit many_split(int32_t items, int32_t twos, int32_t turns) {
  const ManySplit none{items, 0, 0, 0, 0};
  const int32_t tail = items % twos;
  const int32_t helpers = twos - tail;
  const int32_t helped = tail == 0 ? 0 : (tail + helpers - 1) / helpers;
  if (helped == 0 || helped > kManyHelpedMax) return none;
  const int32_t mine = turns / (helped + 1);
  const int32_t other = turns - mine;
  const int32_t longest = mine * helped > other ? mine * helped : other;
  if (mine == 0 || longest + kManyJoinTurns >= turns) return none;
  return {items - tail, tail, helpers, helped, mine};
}

// What a two has to do with an item: all of it; the first turns, whose sums it leaves in memory;
// the other turns, to which it adds those sums.
enum class ManyRole : uint8_t { kWhole, kHelped, kLast };

struct ManyPart {
  bool there = false;
  int32_t item = 0;
  int32_t begin = 0;  // turns
  int32_t end = 0;
  ManyRole role = ManyRole::kWhole;
  int32_t shared = 0;  // which of the shared items
};

// The n-th that a two does. What helpers leave comes first, so nobody waits for it for long; and
// helpers are the first twos, which run whatever room there is.
constexpr ManyPart many_part(const ManySplit& s, int32_t two, int32_t twos, int32_t turns,
                             int32_t n) {
  if (two < s.helpers) {
    const int32_t shared = two + n * s.helpers;
    if (shared < s.tail) return {true, s.whole + shared, 0, s.turns, ManyRole::kHelped, shared};
    n -= two + (s.helped - 1) * s.helpers < s.tail ? s.helped : s.helped - 1;
  }
  const int32_t item = two + n * twos;
  if (item < s.whole) return {true, item, 0, turns, ManyRole::kWhole, 0};
  const int32_t shared = two - s.helpers;
  if (shared < 0 || shared >= s.tail || item - s.whole >= twos) return {};
  return {true, s.whole + shared, s.turns, turns, ManyRole::kLast, shared};
}

// Most items that a launch shares, of so many twos; each leaves two tiles' sums.
constexpr int32_t many_tail_max(int32_t twos) {
  return twos * kManyHelpedMax / (kManyHelpedMax + 1);
}
constexpr int64_t many_sums_bytes(int32_t twos) {
  return int64_t{many_tail_max(twos)} * 2 * kManyTileRows * kManyTileColumns * 4;
}
// A word a warp of products and tile.
constexpr int64_t many_words(int32_t twos) { return int64_t{many_tail_max(twos)} * 2 * 8; }

}  // namespace fathom::kernels
