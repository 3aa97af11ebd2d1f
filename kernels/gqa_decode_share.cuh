// How a block of threads finds its share of a step's cached tokens, from the rows' lengths alone:
// all blocks come to the same answer.
#pragma once

#include "gqa_decode_work.cuh"

namespace fathom::kernels {

// The rows, as a thread knows them when all have read theirs.
struct GqaRowsRead {
  int32_t first = 0;  // of this thread's
  int32_t last = 0;
  int32_t mine = 0;         // granules of its rows' streams
  int32_t before = 0;       // of those of the rows before
  int32_t rows_before = 0;  // that have tokens
  GqaStreams streams;
};

__device__ inline int32_t sum_before(int32_t mine) {
  int32_t sum = mine;
  for (int offset = 1; offset < 32; offset *= 2) {
    const int32_t x = __shfl_up_sync(0xFFFFFFFFU, sum, offset);
    if (static_cast<int>(threadIdx.x % 32) >= offset) sum += x;
  }
  return sum - mine;
}

// All threads: each reads a run of rows, a scan over threads places them.
__device__ inline GqaRowsRead read_rows(const GqaDecodeArgs& a, GqaWork& w) {
  const auto tid = static_cast<int32_t>(threadIdx.x);
  const int32_t of_row = a.kv_heads * a.tiles;
  const int32_t each = (a.rows.count + kGqaThreads - 1) / kGqaThreads;
  GqaRowsRead r;
  r.first = min(tid * each, a.rows.count);
  r.last = min(r.first + each, a.rows.count);
  int32_t rows = 0;
  int32_t shortest = INT32_MAX;
  int32_t longest = 0;
  for (int32_t i = r.first; i < r.last; ++i) {
    const int32_t query = a.rows.query[i];
    const int32_t seen = query == 0 ? 0 : a.rows.context[i] + query;
    w.seen[i] = seen;
    w.slot[i] = a.rows.slot[i];
    if (seen == 0) continue;
    ++rows;
    r.mine += granules_of(seen) * of_row;
    shortest = min(shortest, granules_of(seen));
    longest = max(longest, granules_of(seen));
  }
  r.before = sum_before(r.mine);
  r.rows_before = sum_before(rows);
  shortest = __reduce_min_sync(0xFFFFFFFFU, shortest);
  longest = __reduce_max_sync(0xFFFFFFFFU, longest);
  if (tid % 32 == 31) {
    w.warp_sums[tid / 32] = r.before + r.mine;
    w.warp_rows[tid / 32] = r.rows_before + rows;
    w.shortest[tid / 32] = shortest;
    w.longest[tid / 32] = longest;
  }
  __syncthreads();
  for (int32_t i = 0; i < kGqaThreads / 32; ++i) {
    r.before += i < tid / 32 ? w.warp_sums[i] : 0;
    r.rows_before += i < tid / 32 ? w.warp_rows[i] : 0;
    r.streams.all += w.warp_sums[i];
    r.streams.count += w.warp_rows[i] * of_row;
    shortest = min(shortest, w.shortest[i]);
    longest = max(longest, w.longest[i]);
  }
  r.streams.shortest = shortest;
  r.streams.longest = longest;
  return r;
}

// All threads.
__device__ inline void find_share(const GqaDecodeArgs& a, GqaWork& w) {
  const auto tid = static_cast<int32_t>(threadIdx.x);
  const auto block = static_cast<int32_t>(blockIdx.x);
  const int32_t of_row = a.kv_heads * a.tiles;
  const GqaRowsRead r = read_rows(a, w);
  GqaShare share;
  share.all = r.streams.all;
  if (takes_whole_streams(r.streams, static_cast<int32_t>(gridDim.x))) {
    share.taken = r.streams.count;
    share.end = block < share.taken ? 1 : 0;
    int32_t place = r.rows_before;
    for (int32_t i = r.first; i < r.last; ++i)
      if (w.seen[i] > 0) w.rows[place++] = static_cast<uint16_t>(i);
    if (tid == 0) w.share = share;
  } else {
    share.begin = share_begin(share, block);
    share.end = share_begin(share, block + 1);
    if (tid == 0 && share.begin >= share.end) w.share = share;
    if (share.begin < share.end && r.before <= share.begin && share.begin < r.before + r.mine) {
      share.row = r.first;
      share.row_base = r.before;
      while (share.begin >= share.row_base + granules_of(w.seen[share.row]) * of_row)
        share.row_base += granules_of(w.seen[share.row++]) * of_row;
      w.share = share;
    }
  }
  __syncthreads();
}

}  // namespace fathom::kernels
