// The parts of making a grouped product's lists: pairs counted by expert, tiles, places. By whole
// blocks of kMoeExpertsMax threads, an expert a thread.
#pragma once

#include "grouped_gemm.h"

namespace fathom::kernels {

inline constexpr int kListThreads = kMoeExpertsMax;
inline constexpr int kEvenTiles = 3;

// The pairs of a launch.
struct GroupedPairs {
  const int32_t* ids;
  const uint8_t* token_valid;
  int32_t count;
  int32_t k;
  int32_t first_expert;
  int32_t expert_count;

  // This rank's expert of a pair, or -1. Ids may come from other blocks of this launch.
  __device__ int32_t expert_of(int32_t pair) const {
    if (pair >= count || token_valid[pair / k] == 0) return -1;
    const int32_t e = __ldcg(ids + pair) - first_expert;
    return e >= 0 && e < expert_count ? e : -1;
  }
};

inline GroupedPairs pairs_of(const GroupedRouting& r) {
  const int32_t k = r.shape.experts_per_token;
  return {r.ids, r.token_valid,  static_cast<int32_t>(r.tokens * k),
          k,     r.first_expert, r.expert_count};
}

// Up to and with this thread's: of both numbers. `shared`: [kListThreads / 16].
__device__ inline int2 running_sums(int2 mine, int32_t* shared) {
  const auto lane = static_cast<int32_t>(threadIdx.x % 32);
  const auto warp = static_cast<int32_t>(threadIdx.x / 32);
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const int2 more = {__shfl_up_sync(0xFFFFFFFFU, mine.x, step),
                       __shfl_up_sync(0xFFFFFFFFU, mine.y, step)};
    if (lane >= step) mine = make_int2(mine.x + more.x, mine.y + more.y);
  }
  if (lane == 31) {
    shared[2 * warp] = mine.x;
    shared[2 * warp + 1] = mine.y;
  }
  __syncthreads();
  for (int w = 0; w < warp; ++w)
    mine = make_int2(mine.x + shared[2 * w], mine.y + shared[2 * w + 1]);
  return mine;
}

// Tiles that alone share weights are as even as whole rows go, so that they keep step and the
// second to read finds the weights in L2. Of many, the last has what is left. Blocks that work in
// twos share weights whatever they do: whole tiles first.
struct TileWriter {
  GroupedTile* tiles;  // of one expert
  int32_t expert;
  int32_t first;  // pair or token
  int32_t count;
  int32_t first_tile;  // of the expert, as a GroupedTile says it
  int32_t n;

  __device__ void put(int32_t t, int32_t begin, int32_t end, int32_t somewhere) const {
    tiles[t] = {expert,   first + (end > begin ? begin : somewhere), end - begin, first_tile, n,
                {0, 0, 0}};
  }

  __device__ void write(int32_t t) const {
    const bool even = n <= kEvenTiles;
    const int32_t begin = even ? count * t / n : t * kGroupedTileRows;
    const int32_t end = even ? count * (t + 1) / n : min(count, begin + kGroupedTileRows);
    put(t, begin, end, begin);
  }

  // Both tiles of a two.
  __device__ void write_two(int32_t two) const {
    constexpr int32_t kWhole = 2 * kGroupedTileRows;
    const int32_t begin = two * kWhole;
    const int32_t rows = (2 * two + 2 < n ? begin + kWhole : count) - begin;
    const bool second_takes_rest = rows >= kWhole && rows <= kGroupedTileRows + kPairedTileRows;
    const int32_t half = begin + (second_takes_rest ? kGroupedTileRows : (rows + 1) / 2);
    put(2 * two, begin, half, begin);
    put(2 * two + 1, half, begin + rows, begin);
  }
};

// How many tiles an expert has.
__device__ inline int32_t tiles_of(int32_t count, bool paired) {
  if (!paired) return (count + kGroupedTileRows - 1) / kGroupedTileRows;
  return count > 0 ? 2 * grouped_paired_tiles(count) : 0;
}

// All tiles, each expert's first place in the order (left in counters->cursors, and returned to
// the expert's thread), and what the products count in.
__device__ inline int32_t make_tiles(const GroupedPairs& pairs, const GroupedSchedule& schedule,
                                     int32_t tokens, int32_t* shared) {
  const auto e = static_cast<int32_t>(threadIdx.x);
  GroupedCounters& counters = *schedule.counters;
  const int32_t count = e < pairs.expert_count ? __ldcg(&counters.pairs[e]) : 0;
  const bool paired = schedule.paired;
  const int32_t mine = tiles_of(count, paired);
  const int2 to = running_sums(make_int2(count, mine), shared);
  const int32_t first = to.x - count;
  if (e < pairs.expert_count) counters.cursors[e] = first;
  if (e == pairs.expert_count - 1) {
    counters.tiles = to.y;
    counters.handed_out = 0;
  }
  GroupedTile* routed = schedule.tiles + schedule.shared_tiles + (to.y - mine);
  const TileWriter own{routed, e, first, count, to.y - mine, mine};
  for (int32_t t = 0; t < mine; ++t) schedule.done[routed - schedule.tiles + t] = 0;
  for (int32_t t = 0; t < mine; t += paired ? 2 : 1) paired ? own.write_two(t / 2) : own.write(t);
  const TileWriter all{schedule.tiles, pairs.expert_count, 0, tokens, 0, schedule.shared_tiles};
  for (int32_t t = e; t < schedule.shared_tiles; t += kListThreads) {
    schedule.done[t] = 0;
    if (!paired) all.write(t);
    if (paired && t % 2 == 0) all.write_two(t / 2);
  }
  return first;
}

}  // namespace fathom::kernels
