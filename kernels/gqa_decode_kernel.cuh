// Decode attention of grouped heads, bound by the bytes of the cache: four warps compute, each on
// 32 tokens of a chunk; a thread of the fifth copies keys and values (gqa_decode_copy.cuh).
// See docs/kernels/gqa_decode.md.
#pragma once

#include "gqa_decode_copy.cuh"
#include "gqa_decode_fold.cuh"
#include "gqa_decode_share.cuh"

namespace fathom::kernels {

// A warp's part of a chunk: its sums and statistics end in shared memory. Returns whether its ring
// had tokens: then it holds the stage s.place[warp], which it frees when all have read it.
template <int kDims, int kGroups, bool kFp8>
__device__ bool compute_granule(const GqaDecodeArgs& a, GqaShared<kDims, kGroups, kFp8>& s,
                                GqaTile<kDims, kGroups>& tile, int32_t first_token, int32_t seen,
                                uint32_t turn, PlaceOf<kDims, kGroups, kFp8>& at) {
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t warp = threadIdx.x / 32;
  const uint32_t ring = warp / GqaShared<kDims, kGroups, kFp8>::kSharing;
  const auto before = static_cast<int32_t>(warp % GqaShared<kDims, kGroups, kFp8>::kSharing) *
                      kGqaGranuleTokens;
  if (first_token >= seen) {
    if (lane < 8 * kGroups) s.statistics[turn][warp][lane] = float2{-INFINITY, 0.0F};
    if (first_token - before >= seen) return false;
    barrier_wait(&s.full[ring][at.index], at.phase);
    barrier_arrive_of_warp<kFp8>(&s.free[ring][at.index]);
    at.advance();
    barrier_wait(&s.full[ring][at.index], at.phase);
    return true;
  }
  float scores[2][kGroups][4];
  barrier_wait(&s.full[ring][at.index], at.phase);
  const uint32_t keys = shared_address(s.granule(warp, at.index));
  if constexpr (kFp8) {
    add_scores_fp8(tile, keys, s.scales_of(warp, at.index), scores);
  } else {
    add_scores(tile, keys, scores);
  }
  barrier_arrive_of_warp<kFp8>(&s.free[ring][at.index]);
  at.advance();
  weigh(tile, scores, first_token, a.scale_log2);
  barrier_wait(&s.full[ring][at.index], at.phase);
  uint8_t* values = s.granule(warp, at.index);
  if constexpr (kFp8) {
    uint32_t weights[2][kGroups][2];
    const int32_t count = seen - first_token;
    if (count < kGqaGranuleTokens) clear_codes<kDims>(values, count);
    const float factor = scale_weights(scores, s.scales_of(warp, at.index), count, weights);
    if (lane == 0) s.factor[turn][warp] = factor;
    add_values_fp8(tile, shared_address(values), weights);
  } else {
    SplitWeights weights[2][kGroups];
    split_weights(scores, weights);
    if (first_token + kGqaGranuleTokens > seen) clear_tokens<kDims>(values, seen - first_token);
    add_values(tile, shared_address(values), weights);
  }
  __syncwarp();
  store_sums<kFp8>(tile, reinterpret_cast<float*>(values), s.statistics[turn][warp]);
  if (lane == 0) s.place[turn][warp] = at.index;
  return true;
}

// The four warps' results of a chunk for one pair, in the order of their tokens.
template <int kDims, int kGroups, bool kFp8>
__device__ GqaPartial<kDims / 32> chunk_of(const GqaShared<kDims, kGroups, kFp8>& s,
                                           uint32_t turn, uint32_t pair) {
  constexpr int kEach = kDims / 32;
  const uint32_t lane = threadIdx.x % 32;
  GqaPartial<kEach> all{};
  all.peak = -INFINITY;
#pragma unroll
  for (uint32_t w = 0; w < kGqaWarps; ++w)
    all.peak = fmaxf(all.peak, s.statistics[turn][w][pair].x);
#pragma unroll
  for (uint32_t w = 0; w < kGqaWarps; ++w) {
    const float2 statistics = s.statistics[turn][w][pair];
    if (statistics.x == -INFINITY) continue;
    const float weight = exp2_fast(statistics.x - all.peak);
    const auto* sums = reinterpret_cast<const float*>(s.granule(w, s.place[turn][w]));
    const auto part = *reinterpret_cast<const LaneFloats<kEach>*>(
        sums + sum_at<kDims, kFp8>(pair, lane * kEach));
    all.total = __fmaf_rn(statistics.y, weight, all.total);
    const float by = kFp8 ? weight * s.factor[turn][w] : weight;
#pragma unroll
    for (int d = 0; d < kEach; ++d) all.sum[d] = __fmaf_rn(part.x[d], by, all.sum[d]);
  }
  return all;
}

// What a block of threads knows of the stream that it is in.
template <int kDims, int kGroups>
struct GqaState {
  GqaPartials<kDims, kGroups> segment;
  GqaPartials<kDims, kGroups> row;
  int32_t prefix = 0;   // whole segments from the stream's first on, folded in `row`
  int32_t written = 0;  // results of segments that this block put in global memory
};

// fold_slots and write_pair, short and out of line: instructions that were not run lately come from
// memory, behind keys and values.
template <int kEach>
__device__ __noinline__ GqaPartial<kEach> folded(const GqaDecodeArgs& a, int32_t slot,
                                                 int32_t count, int32_t pair,
                                                 GqaPartial<kEach> to) {
  constexpr int32_t kAtOnce = 8;
  const auto lane = static_cast<int32_t>(threadIdx.x % 32);
  float2 mine{-INFINITY, 0.0F};
  if (lane < count) mine = __ldcg(a.statistics + int64_t{slot} * a.pairs + pair);
  FoldStep step{};
#pragma unroll 1
  for (int32_t i = 0; i < count; i += kAtOnce) {
    LaneFloats<kEach> sums[kAtOnce];
#pragma unroll
    for (int32_t j = 0; j < kAtOnce; ++j) {
      const int32_t there = __shfl_sync(0xFFFFFFFFU, slot, min(i + j, count - 1));
      sums[j] = read_sums<kEach>(a, there, pair);
    }
    if (i == 0) step = fold_step(to.peak, mine);
#pragma unroll
    for (int32_t j = 0; j < kAtOnce; ++j) add_step(step, i + j, sums[j], to);
  }
  to.peak = __shfl_sync(0xFFFFFFFFU, step.peak, 31);
  return to;
}
template <int kDims>
__device__ __noinline__ void write_values(const GqaDecodeArgs& a, int64_t token, int32_t head,
                                          GqaPartial<kDims / 32> p) {
  write_pair<kDims>(a, token, head, p);
}

// Where the values of a stream's tile go.
struct GqaOutput {
  int32_t first_pair = 0;
  int32_t first_head = 0;
  int32_t pairs = 0;
  int64_t first_token = 0;

  __device__ GqaOutput(const GqaDecodeArgs& a, const GqaRun& run, int32_t tile_pairs)
      : first_pair(run.stream % a.tiles * tile_pairs),
        first_head(run.stream / a.tiles * a.group),
        pairs(min(a.rows.query[run.row] * a.group - first_pair, tile_pairs)),
        first_token(a.rows.first[run.row]) {}

  template <int kDims>
  __device__ void write(const GqaDecodeArgs& a, int32_t pair,
                        const GqaPartial<kDims / 32>& p) const {
    write_values<kDims>(a, first_token + (first_pair + pair) / a.group,
                        first_head + (first_pair + pair) % a.group, p);
  }
};

// Values of a stream's tile to their rows.
template <int kDims, int kGroups>
__device__ void write_out(const GqaDecodeArgs& a, const GqaRun& run,
                          GqaPartials<kDims, kGroups>& from) {
  const GqaOutput out(a, run, 8 * kGroups);
  from.each(out.pairs, [&](int32_t pair, auto& p) { out.template write<kDims>(a, pair, p); });
}

// This block has computed a whole segment: it is in state.segment. A stream that begins in its
// share has it in state.row, with those before.
template <int kDims, int kGroups>
__device__ void finish_segment(const GqaDecodeArgs& a, const GqaRun& run, int32_t segment,
                               GqaState<kDims, kGroups>& state) {
  if (run.begin == 0) {
    if (segment == 0) {
      state.row = state.segment;
    } else {
#pragma unroll
      for (int i = 0; i < state.row.kOwn; ++i) fold(state.row.of[i], state.segment.of[i]);
    }
    state.prefix = segment + 1;
    return;
  }
  const int32_t slot = segment_slot(a, static_cast<int32_t>(blockIdx.x), segment);
  state.segment.each(a.pairs,
                     [&](int32_t pair, const auto& p) { write_partial(a, slot, pair, p); });
  ++state.written;
}

// This block has chunks of a segment, others the rest: whoever comes last puts it together. Returns
// how many results of it this block put in global memory, as parts of a row.
template <int kDims, int kGroups, bool kFp8>
__device__ __noinline__ int32_t join_segment(const GqaDecodeArgs& a,
                                             GqaShared<kDims, kGroups, kFp8>& s, GqaRun run,
                                             int32_t segment) {
  const int32_t first = segment * kGqaSegmentChunks;
  const int32_t end = min(first + kGqaSegmentChunks, run.chunks);
  const GqaShare& share = s.work.share;
  const int32_t began = share_of(share, run.granule(first));
  const int32_t count = min(end, run.end) - max(first, run.begin);
  if (!arrive(a.arrivals + began, count, end - first, &s.last)) return 0;
  const int32_t slot = slots_of_chunks(a, share, run, first, end);
  const GqaOutput out(a, run, 8 * kGroups);
  const bool one = run.segments() == 1;
#pragma unroll 1
  for (auto pair = static_cast<int32_t>(threadIdx.x / 32); pair < out.pairs; pair += kGqaWarps) {
    const auto p = folded<kDims / 32>(a, slot, end - first, pair, {-INFINITY, 0.0F, {}});
    if (one) {
      out.template write<kDims>(a, pair, p);
    } else {
      write_partial(a, last_segment_slot(a, began), pair, p);
    }
  }
  return one ? 0 : 1;
}

// The same of a row of several segments, of which this block has written `count`.
template <int kDims, int kGroups, bool kFp8>
__device__ __noinline__ void join_row(const GqaDecodeArgs& a, GqaShared<kDims, kGroups, kFp8>& s,
                                      GqaRun run, int32_t count) {
  const GqaShare& share = s.work.share;
  const int32_t began = share_of(share, run.base);
  if (!arrive(a.arrivals + gridDim.x + began, count, run.segments(), &s.last)) return;
  const int32_t whole_chunks = min(run.chunks, chunk_from(run.base, share_begin(share, began + 1)));
  const int32_t prefix = whole_chunks / kGqaSegmentChunks;
  const int32_t results = run.segments() - (prefix > 0 ? prefix - 1 : 0);
  const GqaOutput out(a, run, 8 * kGroups);
#pragma unroll 1
  for (auto pair = static_cast<int32_t>(threadIdx.x / 32); pair < out.pairs; pair += kGqaWarps) {
    GqaPartial<kDims / 32> p{-INFINITY, 0.0F, {}};
#pragma unroll 1
    for (int32_t i = 0; i < results; i += kGqaSegmentChunks) {
      const int32_t index = min(i + static_cast<int32_t>(threadIdx.x % 32), results - 1);
      const int32_t slot = slots_of_segments(a, share, run, prefix, index);
      p = folded<kDims / 32>(a, slot, min(kGqaSegmentChunks, results - i), pair, p);
    }
    out.template write<kDims>(a, pair, p);
  }
}

// After chunk `c` of a run: keeps it in state.segment if the whole segment is this block's, else
// hands it over.
template <int kDims, int kGroups, bool kFp8>
__device__ void place_chunk(const GqaDecodeArgs& a, GqaShared<kDims, kGroups, kFp8>& s,
                            const GqaRun& run, int32_t c, uint32_t turn,
                            GqaState<kDims, kGroups>& state) {
  const int32_t first = c / kGqaSegmentChunks * kGqaSegmentChunks;
  const int32_t end = min(first + kGqaSegmentChunks, run.chunks);
  const bool alone = first >= run.begin && end <= run.end;
  if (alone && c == first) state.segment.clear();
  const int32_t slot = chunk_slot(a, static_cast<int32_t>(blockIdx.x), c, first < run.begin);
  state.segment.each(a.pairs, [&](int32_t pair, auto& p) {
    const auto x = chunk_of(s, turn, static_cast<uint32_t>(pair));
    if (alone) {
      fold(p, x);
    } else {
      write_partial(a, slot, pair, x);
    }
  });
}

// After the last chunk of a segment that this block has.
template <int kDims, int kGroups, bool kFp8>
__device__ void end_segment(const GqaDecodeArgs& a, GqaShared<kDims, kGroups, kFp8>& s,
                            const GqaRun& run, int32_t segment, GqaState<kDims, kGroups>& state) {
  const int32_t first = segment * kGqaSegmentChunks;
  const int32_t end = min(first + kGqaSegmentChunks, run.chunks);
  const bool alone = first >= run.begin && end <= run.end;
  if (alone) {
    finish_segment(a, run, segment, state);
  } else {
    state.written += join_segment(a, s, run, segment);
  }
}

// The end of a run.
template <int kDims, int kGroups, bool kFp8>
__device__ void end_run(const GqaDecodeArgs& a, GqaShared<kDims, kGroups, kFp8>& s,
                        const GqaRun& run, GqaState<kDims, kGroups>& state) {
  if (state.prefix == run.segments()) {
    write_out(a, run, state.row);
    return;
  }
  if (run.segments() == 1) return;
  if (state.prefix > 0) {
    const int32_t slot = prefix_slot(a, static_cast<int32_t>(blockIdx.x));
    state.row.each(a.pairs,
                   [&](int32_t pair, const auto& p) { write_partial(a, slot, pair, p); });
  }
  const int32_t count = state.prefix + state.written;
  if (count > 0) join_row(a, s, run, count);
}

template <int kDims, int kGroups, bool kFp8>
__device__ void compute_runs(const GqaDecodeArgs& a, GqaShared<kDims, kGroups, kFp8>& s) {
  const auto warp = static_cast<int32_t>(threadIdx.x / 32);
  const uint32_t ring = threadIdx.x / 32 / GqaShared<kDims, kGroups, kFp8>::kSharing;
  PlaceOf<kDims, kGroups, kFp8> at;
  GqaTile<kDims, kGroups> tile;
  GqaState<kDims, kGroups> state;
  // Sums stay in their stage until the next chunk's barrier where there are stages enough: then one
  // barrier a chunk will do.
  constexpr bool kLate = GqaShared<kDims, kGroups, kFp8>::kStages > 3;
  uint32_t turn = 0;
  int32_t held = -1;
  for_each_run<false>(a, s.work, [&](const GqaRun& run) {
    const int32_t seen = s.work.seen[run.row];
    load_queries<kFp8>(a, run, tile);
    if constexpr (kFp8) scale_queries(tile);
    state.prefix = 0;
    state.written = 0;
    for (int32_t c = run.begin; c < run.end; ++c) {
      const int32_t token = c * kGqaChunkTokens + warp * kGqaGranuleTokens;
      const bool had = compute_granule(a, s, tile, token, seen, turn, at);
      compute_barrier();
      if constexpr (kLate) {
        if (held >= 0) barrier_arrive_of_warp<kFp8>(&s.free[ring][held]);
      }
      place_chunk(a, s, run, c, turn, state);
      asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
      if constexpr (kLate) {
        held = had ? static_cast<int32_t>(at.index) : -1;
        if (had) at.advance();
        turn ^= 1U;
      } else {
        compute_barrier();
        if (had) {
          barrier_arrive_of_warp<kFp8>(&s.free[ring][at.index]);
          at.advance();
        }
      }
      if (c % kGqaSegmentChunks == kGqaSegmentChunks - 1 || c == run.end - 1)
        end_segment(a, s, run, c / kGqaSegmentChunks, state);
    }
    end_run(a, s, run, state);
  });
}

template <int kDims, int kGroups, bool kFp8>
__global__ void __launch_bounds__(kGqaThreads, kGroups == 1 ? 2 : 1)
    gqa_decode_kernel(const __grid_constant__ CUtensorMap cache,
                      const __grid_constant__ CUtensorMap eights,
                      const __grid_constant__ GqaDecodeArgs a) {
  extern __shared__ uint8_t raw[];
  auto& s =
      *reinterpret_cast<GqaShared<kDims, kGroups, kFp8>*>(raw + (0U - shared_address(raw)) % 1024U);
  if (threadIdx.x < s.kRings * s.kStages) {
    barrier_init(&s.full[0][0] + threadIdx.x, 1);
    barrier_init(&s.free[0][0] + threadIdx.x, s.kSharing * kWarpArrivals<kFp8>);
    barrier_init_done();
  }
  if (threadIdx.x < kGqaTickets) barrier_init(&s.work.ticket_there[threadIdx.x], 1);
  if (threadIdx.x == kGqaWarps * 32) prefetch_map(&cache);
  let_next_kernel_start();
  // Rows, block tables and old tokens are older than the step's first kernel, which waits for all
  // before it.
  find_share(a, s.work);
  const bool copies = threadIdx.x / 32 == kGqaWarps;
  if (!copies) wait_for_earlier_kernels();
  if (s.work.share.begin >= s.work.share.end) return;
  if (!copies) {
    compute_runs(a, s);
  } else if (threadIdx.x == kGqaWarps * 32) {
    copy_runs(a, s, &cache, &eights);
  }
}

}  // namespace fathom::kernels
