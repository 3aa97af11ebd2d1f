// Which chunks of which streams a block of threads takes: whole streams, one after another from a
// counter, where that comes out even; else an equal share of the streams laid end to end in the
// rows' order, which every block finds from the rows' lengths for itself (gqa_decode_share.cuh).
#pragma once

#include "async_copy.cuh"
#include "gqa_decode.h"
#include "gqa_fp8_cache.cuh"

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
  const Fp8Scale* scales = nullptr;  // e4m3 cache: of block 0's head 0, [(keys, values), 64 tokens]
  int64_t scale_stride = 0;       // from block to block
  int64_t scale_head_stride = 0;  // from head to head
  Epilogue out;
  float* partial = nullptr;
  float2* statistics = nullptr;
  int32_t* arrivals = nullptr;
};

// A block's share, in granules of the streams laid end to end; or all streams, to be taken in turn.
struct GqaShare {
  int32_t all = 0;
  int32_t begin = 0;
  int32_t end = 0;       // past `begin`, where the block has anything
  int32_t row = 0;       // in which the share begins
  int32_t row_base = 0;  // granules of the rows before it
  int32_t taken = 0;     // streams to be taken; 0: shares
};

// Streams that the copying thread has taken, for the others. It is fewer than these ahead: a ring
// holds three granules, and every stream has one of the first warp's.
inline constexpr int32_t kGqaTickets = 8;

struct GqaWork {
  int32_t seen[kGqaRowsMax];  // tokens of a row that its last query sees
  int32_t slot[kGqaRowsMax];
  uint16_t rows[kGqaRowsMax];  // that have tokens
  int32_t warp_sums[kGqaThreads / 32];
  int32_t warp_rows[kGqaThreads / 32];
  int32_t shortest[kGqaThreads / 32];  // granules of a row that has any
  int32_t longest[kGqaThreads / 32];
  int32_t tickets[kGqaTickets];
  uint64_t ticket_there[kGqaTickets];
  GqaShare share;
};

__device__ inline int32_t granules_of(int32_t seen) {
  return (seen + kGqaGranuleTokens - 1) / kGqaGranuleTokens;
}

__device__ inline int32_t chunks_of(int32_t seen) {
  return (granules_of(seen) + kGqaWarps - 1) / kGqaWarps;
}

__device__ inline int32_t share_begin(const GqaShare& s, int32_t block) {
  return static_cast<int32_t>(int64_t{block} * s.all / static_cast<int32_t>(gridDim.x));
}

// The block whose share holds granule `at`.
__device__ inline int32_t share_of(const GqaShare& s, int32_t at) {
  return static_cast<int32_t>(((int64_t{at} + 1) * static_cast<int32_t>(gridDim.x) - 1) / s.all);
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

// Where a thread is in its block's share.
struct GqaCursor {
  int32_t row = 0;
  int32_t base = 0;  // granules before the row
  int32_t stream = 0;
  int32_t taken = 0;  // streams taken so far
  int32_t next = 0;   // the copying thread's: the stream that it takes next
};

__device__ inline GqaCursor first_run(const GqaWork& w) {
  const GqaShare& share = w.share;
  if (share.taken > 0) return {};
  const int32_t before = max(share.begin - share.row_base, 0);
  return {share.row, share.row_base, before / granules_of(w.seen[share.row])};
}

// The block's next stream: its first is its number's, the others are counted out by the first of
// `arrivals`, which earlier kernels clear.
__device__ inline int32_t take_stream(const GqaDecodeArgs& a, GqaWork& w, GqaCursor& at) {
  const auto take = [&] { return static_cast<int32_t>(gridDim.x) + atomicAdd(a.arrivals, 1); };
  if (at.taken == 0) at.next = static_cast<int32_t>(blockIdx.x);
  if (at.taken == 1) {
    wait_for_earlier_kernels();
    at.next = take();
  }
  const int32_t mine = at.next;
  w.tickets[at.taken % kGqaTickets] = mine;
  barrier_arrive(&w.ticket_there[at.taken % kGqaTickets]);
  // The answer is there when this one's copies have been asked for.
  if (at.taken > 0 && mine < w.share.taken) at.next = take();
  return mine;
}

template <bool kCopies>
__device__ bool next_taken(const GqaDecodeArgs& a, GqaWork& w, GqaCursor& at, GqaRun& run) {
  int32_t ticket = 0;
  if constexpr (kCopies) {
    ticket = take_stream(a, w, at);
  } else {
    barrier_wait(&w.ticket_there[at.taken % kGqaTickets],
                 static_cast<uint32_t>(at.taken / kGqaTickets) & 1U);
    ticket = w.tickets[at.taken % kGqaTickets];
  }
  ++at.taken;
  if (ticket >= w.share.taken) return false;
  const int32_t streams = a.kv_heads * a.tiles;
  const int32_t row = w.rows[ticket / streams];
  run = GqaRun{row, ticket % streams, 0, chunks_of(w.seen[row])};
  run.end = run.chunks;
  return true;
}

// The next stream of which the block's share has chunks.
__device__ inline bool next_shared(const GqaDecodeArgs& a, const GqaWork& w, GqaCursor& at,
                                   GqaRun& run) {
  const GqaShare& share = w.share;
  const int32_t streams = a.kv_heads * a.tiles;
  while (at.base < share.end) {
    const int32_t granules = granules_of(w.seen[at.row]);
    if (granules == 0 || at.stream == streams) {
      at.row += 1;
      at.base += granules * streams;
      at.stream = 0;
      continue;
    }
    const int32_t stream = at.stream++;
    run = GqaRun{at.row, stream, at.base + stream * granules, chunks_of(w.seen[at.row])};
    if (run.base >= share.end) return false;
    run.begin = chunk_from(run.base, share.begin);
    run.end = min(run.chunks, chunk_from(run.base, share.end));
    if (run.begin < run.end) return true;
  }
  return false;
}

// Calls body(run) for every stream of the share, in order. kCopies: by the copying thread, which
// takes streams for all.
template <bool kCopies, typename Body>
__device__ void for_each_run(const GqaDecodeArgs& a, GqaWork& w, Body&& body) {
  GqaCursor at = first_run(w);
  GqaRun run;
  while (w.share.taken > 0 ? next_taken<kCopies>(a, w, at, run) : next_shared(a, w, at, run))
    body(run);
}

}  // namespace fathom::kernels
