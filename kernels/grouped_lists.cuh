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
// second to read finds the weights in L2. Of many, the last has what is left.
__device__ inline void write_tiles(GroupedTile* tiles, int32_t expert, int32_t first, int32_t count,
                                   int32_t first_tile, int32_t n) {
  for (int32_t t = 0; t < n; ++t) {
    const bool even = n <= kEvenTiles;
    const int32_t begin = even ? count * t / n : t * kGroupedTileRows;
    const int32_t end = even ? count * (t + 1) / n : min(count, begin + kGroupedTileRows);
    tiles[first_tile + t] = {expert, first + begin, end - begin, first_tile, n, {0, 0, 0}};
  }
}

// All tiles, each expert's first place in the order (left in counters->cursors, and returned to
// the expert's thread), and what the products count in.
__device__ inline int32_t make_tiles(const GroupedPairs& pairs, const GroupedSchedule& schedule,
                                     int32_t tokens, int32_t* shared) {
  const auto e = static_cast<int32_t>(threadIdx.x);
  GroupedCounters& counters = *schedule.counters;
  const int32_t count = e < pairs.expert_count ? __ldcg(&counters.pairs[e]) : 0;
  const int32_t mine = (count + kGroupedTileRows - 1) / kGroupedTileRows;
  const int2 to = running_sums(make_int2(count, mine), shared);
  const int32_t first = to.x - count;
  if (e < pairs.expert_count) counters.cursors[e] = first;
  if (e == pairs.expert_count - 1) {
    counters.tiles = to.y;
    counters.handed_out = 0;
  }
  GroupedTile* routed = schedule.tiles + schedule.shared_tiles;
  write_tiles(routed, e, first, count, to.y - mine, mine);
  for (int32_t t = 0; t < mine; ++t) schedule.done[schedule.shared_tiles + to.y - mine + t] = 0;
  for (int32_t t = e; t < schedule.shared_tiles; t += kListThreads) {
    schedule.done[t] = 0;
    const bool even = schedule.shared_tiles <= kEvenTiles;
    const int32_t n = schedule.shared_tiles;
    const int32_t begin = even ? tokens * t / n : t * kGroupedTileRows;
    const int32_t end = even ? tokens * (t + 1) / n : min(tokens, begin + kGroupedTileRows);
    schedule.tiles[t] = {pairs.expert_count, begin, end - begin, 0, n, {0, 0, 0}};
  }
  return first;
}

}  // namespace fathom::kernels
