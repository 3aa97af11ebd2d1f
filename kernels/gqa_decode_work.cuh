// Which chunks of which streams a block of threads takes: equal shares of the streams laid end to
// end in the rows' order, found from the rows' lengths by every block for itself; whole streams
// where all are as long and blocks nearly enough.
#pragma once

#include "async_copy.cuh"
#include "gqa_decode.h"

namespace fathom::kernels {

inline constexpr int kGqaThreads = kGqaWarps * 32 + 32;  // and a warp that copies

struct GqaDecodeArgs {
  GqaDecodeRows rows;
  int32_t heads = 0;
  int32_t kv_heads = 0;
  int32_t group = 0;  // query heads of a key head
  int32_t tiles = 0;
  int32_t pairs = 0;
  int32_t segments_max = 0;
  int32_t slots_per_block = 0;
  float scale_log2 = 0.0F;  // softmax_scale * log2(e): weights are powers of two
  const __nv_bfloat16* queries = nullptr;
  const float* scales = nullptr;  // e4m3 cache: of block 0's head 0, [(keys, values), 64 tokens]
  int64_t scale_stride = 0;       // from block to block
  int64_t scale_head_stride = 0;  // from head to head
  Epilogue out;
  float* partial = nullptr;
  float2* statistics = nullptr;
  int32_t* arrivals = nullptr;
};

// A block's share, in granules of the streams laid end to end.
struct GqaShare {
  int32_t all = 0;
  int32_t blocks = 0;  // that have a share, from the first on
  int32_t begin = 0;
  int32_t end = 0;
  int32_t row = 0;       // in which the share begins
  int32_t row_base = 0;  // granules of the rows before it
};

struct GqaWork {
  int32_t seen[kGqaRowsMax];  // tokens of a row that its last query sees
  int32_t slot[kGqaRowsMax];
  int32_t warp_sums[kGqaThreads / 32];
  int32_t shortest[kGqaThreads / 32];  // granules of a row that has any
  int32_t longest[kGqaThreads / 32];
  GqaShare share;
};

__device__ inline int32_t granules_of(int32_t seen) {
  return (seen + kGqaGranuleTokens - 1) / kGqaGranuleTokens;
}

__device__ inline int32_t share_begin(const GqaShare& s, int32_t block) {
  return static_cast<int32_t>(int64_t{block} * s.all / s.blocks);
}

// The block whose share holds granule `at`.
__device__ inline int32_t share_of(const GqaShare& s, int32_t at) {
  return static_cast<int32_t>(((int64_t{at} + 1) * s.blocks - 1) / s.all);
}

// All threads. A thread counts a run of rows, a scan over threads places them.
__device__ inline void find_share(const GqaDecodeArgs& a, GqaWork& w) {
  const auto tid = static_cast<int32_t>(threadIdx.x);
  const int32_t streams = a.kv_heads * a.tiles;
  const int32_t each = (a.rows.count + kGqaThreads - 1) / kGqaThreads;
  const int32_t first = min(tid * each, a.rows.count);
  const int32_t last = min(first + each, a.rows.count);
  int32_t mine = 0;
  int32_t shortest = INT32_MAX;
  int32_t longest = 0;
  for (int32_t r = first; r < last; ++r) {
    const int32_t query = a.rows.query[r];
    const int32_t seen = query == 0 ? 0 : a.rows.context[r] + query;
    w.seen[r] = seen;
    w.slot[r] = a.rows.slot[r];
    mine += granules_of(seen) * streams;
    if (seen > 0) shortest = min(shortest, granules_of(seen));
    longest = max(longest, granules_of(seen));
  }
  int32_t before = mine;
  for (int offset = 1; offset < 32; offset *= 2) {
    const int32_t x = __shfl_up_sync(0xFFFFFFFFU, before, offset);
    if (tid % 32 >= offset) before += x;
  }
  shortest = __reduce_min_sync(0xFFFFFFFFU, shortest);
  longest = __reduce_max_sync(0xFFFFFFFFU, longest);
  if (tid % 32 == 31) {
    w.warp_sums[tid / 32] = before;
    w.shortest[tid / 32] = shortest;
    w.longest[tid / 32] = longest;
  }
  before -= mine;
  __syncthreads();
  int32_t all = 0;
  for (int32_t i = 0; i < kGqaThreads / 32; ++i) {
    before += i < tid / 32 ? w.warp_sums[i] : 0;
    all += w.warp_sums[i];
    shortest = min(shortest, w.shortest[i]);
    longest = max(longest, w.longest[i]);
  }
  const auto block = static_cast<int32_t>(blockIdx.x);
  const auto blocks = static_cast<int32_t>(gridDim.x);
  GqaShare share;
  share.all = all;
  share.blocks = shortest == longest ? blocks_of_whole(all / longest, blocks) : blocks;
  const int32_t begin = block < share.blocks ? share_begin(share, block) : all;
  const int32_t end = block < share.blocks ? share_begin(share, block + 1) : all;
  if (tid == 0 && begin >= end) w.share = GqaShare{all, share.blocks, begin, end, 0, 0};
  if (begin < end && before <= begin && begin < before + mine) {
    int32_t row = first;
    while (begin >= before + granules_of(w.seen[row]) * streams)
      before += granules_of(w.seen[row++]) * streams;
    w.share = GqaShare{all, share.blocks, begin, end, row, before};
  }
  __syncthreads();
}

// The chunks of one stream that are in a share: those whose first granule is.
struct GqaRun {
  int32_t row = 0;
  int32_t stream = 0;
  int32_t base = 0;    // the stream's first granule
  int32_t chunks = 0;  // of the stream
  int32_t begin = 0;
  int32_t end = 0;

  __device__ int32_t segments() const {
    return (chunks + kGqaSegmentChunks - 1) / kGqaSegmentChunks;
  }
  __device__ int32_t granule(int32_t chunk) const { return base + chunk * kGqaWarps; }
};

// The first chunk of a stream that starts at granule `base` which is at `at` or later.
__device__ inline int32_t chunk_from(int32_t base, int32_t at) {
  return at <= base ? 0 : (at - base + kGqaWarps - 1) / kGqaWarps;
}

// Calls body(run) for every stream of the share, in order.
template <typename Body>
__device__ void for_each_run(const GqaDecodeArgs& a, const GqaWork& w, Body&& body) {
  const GqaShare share = w.share;
  const int32_t streams = a.kv_heads * a.tiles;
  int32_t base = share.row_base;
  for (int32_t row = share.row; base < share.end; ++row) {
    const int32_t granules = granules_of(w.seen[row]);
    if (granules == 0) continue;
    const int32_t from = base < share.begin ? (share.begin - base) / granules : 0;
    const int32_t to = min(streams, (share.end - base + granules - 1) / granules);
    for (int32_t stream = from; stream < to; ++stream) {
      GqaRun run;
      run.row = row;
      run.stream = stream;
      run.base = base + stream * granules;
      run.chunks = (granules + kGqaWarps - 1) / kGqaWarps;
      run.begin = chunk_from(run.base, share.begin);
      run.end = min(run.chunks, chunk_from(run.base, share.end));
      if (run.begin < run.end) body(run);
    }
    base += granules * streams;
  }
}

}  // namespace fathom::kernels
