// Decode attention of grouped heads, bound by the bytes of the cache: four warps compute, each on
// 32 tokens of a chunk with a ring of its own; a thread of the fifth copies keys and values there.
// See docs/kernels/gqa_decode.md.
#pragma once

#include "gqa_decode_fold.cuh"
#include "gqa_decode_fp8.cuh"
#include "gqa_decode_share.cuh"
#include "ring_place.cuh"

namespace fathom::kernels {

template <int kDims, int kGroups, bool kFp8>
struct GqaShared {
  static constexpr uint32_t kPairs = 8 * kGroups;
  static constexpr uint32_t kStages = kFp8 && kGroups == 1 ? 6 : 3;
  static constexpr uint32_t kCopyBytes = kFp8 ? kGqaCodeBytes<kDims> : kGqaStageBytes<kDims>;
  static constexpr uint32_t kSumBytes = kPairs * kDims * 4;  // they lie in the place of values
  static constexpr uint32_t kStageBytes = kCopyBytes > kSumBytes ? kCopyBytes : kSumBytes;

  alignas(1024) uint8_t ring[kGqaWarps][kStages][kStageBytes];
  alignas(128) Fp8Scale scales[kFp8 ? kGqaWarps : 1][kFp8 ? kStages : 1][kGqaGranuleTokens];
  float2 statistics[2][kGqaWarps][kPairs];
  float factor[2][kGqaWarps];  // e4m3 cache: that a warp's sums are still to be multiplied by
  uint64_t full[kGqaWarps][kStages];
  uint64_t free[kGqaWarps][kStages];
  uint32_t place[2][kGqaWarps];  // the stage where a warp left its sums
  int32_t last;
  GqaWork work;
};

template <int kDims, int kGroups, bool kFp8>
using PlaceOf = RingPlace<GqaShared<kDims, kGroups, kFp8>::kStages>;

// 32 tokens of a block: the keys (half 0) or values (half 1) of one key head.
__device__ inline void copy_granule(void* to, const CUtensorMap* map, uint64_t* barrier,
                                    int32_t token, int32_t column_tile, int32_t half,
                                    int32_t block, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1, {%3, %4, %5, %6, %7}], [%2], %8;" ::"r"(shared_address(to)),
      "l"(map), "r"(shared_address(barrier)), "r"(0), "r"(token), "r"(column_tile), "r"(half),
      "r"(block), "l"(policy)
      : "memory");
}

// The granule's scales, one for each token.
__device__ inline void copy_scales(void* to, const void* from, uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, "
      "[%3];" ::"r"(shared_address(to)),
      "l"(from), "n"(kGqaScaleBytes), "r"(shared_address(barrier))
      : "memory");
}

// Bytes of the codes or numbers of that many tokens, in eights.
template <int kDims, bool kFp8>
__device__ uint32_t eights_bytes(int32_t tokens) {
  return static_cast<uint32_t>(tokens + 7) / 8 * 8 * kDims * (kFp8 ? 1 : 2);
}

// The first `tokens` of a granule, in eights, where not all are the row's.
template <int kDims, bool kFp8>
__device__ __noinline__ void copy_eights(uint8_t* to, const CUtensorMap* map, uint64_t* barrier,
                                         int32_t token, int32_t column_tile, int32_t half,
                                         int32_t block, uint64_t policy, int32_t tokens) {
  constexpr int32_t kTiles = kFp8 ? 1 : kDims / 64;
  constexpr uint32_t kEightBytes = kFp8 ? 8 * kDims : 8 * 128;
#pragma unroll 1
  for (int32_t i = 0; i * 8 < tokens; ++i) {
#pragma unroll
    for (int32_t t = 0; t < kTiles; ++t)
      copy_granule(to + t * kGqaTileBytes + i * kEightBytes, map, barrier, token + 8 * i,
                   column_tile + t, half, block, policy);
  }
}

// Keys and values of a share. Those that are older than the step are asked for before the kernels
// before this one have ended.
template <int kDims, int kGroups, bool kFp8>
__device__ void copy_runs(const GqaDecodeArgs& a, GqaShared<kDims, kGroups, kFp8>& s,
                          const CUtensorMap* map, const CUtensorMap* eights) {
  constexpr uint64_t kEvictFirst = 0x12F0000000000000;
  constexpr uint64_t kEvictNormal = 0x1000000000000000;
  const uint64_t policy = a.tiles == 1 ? kEvictFirst : kEvictNormal;
  constexpr uint32_t kBytes =
      GqaShared<kDims, kGroups, kFp8>::kCopyBytes + (kFp8 ? kGqaScaleBytes : 0);
  PlaceOf<kDims, kGroups, kFp8> places[kGqaWarps];
  bool waited = false;
  for_each_run<true>(a, s.work, [&](const GqaRun& run) {
    const int32_t seen = s.work.seen[run.row];
    const int32_t old = a.rows.context[run.row];
    const int32_t blocks = (seen + kGqaBlockTokens - 1) / kGqaBlockTokens;
    const int32_t* table = a.rows.block_table + s.work.slot[run.row] * a.rows.table_stride;
    const int32_t head = run.stream / a.tiles;
    const int32_t column_tile = kFp8 ? head : head * (kDims / 64);
    const auto block_at = [&](int32_t i) { return i < blocks ? table[i] : 0; };
    int32_t next[2] = {block_at(2 * run.begin), block_at(2 * run.begin + 1)};
    for (int32_t c = run.begin; c < run.end; ++c) {
      const int32_t block[2] = {next[0], next[1]};
      if (c + 1 < run.end) {
        next[0] = block_at(2 * c + 2);
        next[1] = block_at(2 * c + 3);
      }
#pragma unroll
      for (int32_t w = 0; w < kGqaWarps; ++w) {
        const int32_t token = c * kGqaChunkTokens + w * kGqaGranuleTokens;
        if (token >= seen) continue;
        if (!waited && token + kGqaGranuleTokens > old) {
          waited = true;
          wait_for_earlier_kernels();
          // What they wrote to the cache, for the copy engine's eyes.
          asm volatile("fence.proxy.async.global;" ::: "memory");
        }
#pragma unroll
        for (int32_t half = 0; half < 2; ++half) {
          PlaceOf<kDims, kGroups, kFp8>& at = places[w];
          uint64_t* full = &s.full[w][at.index];
          const bool whole = token + kGqaGranuleTokens <= seen;
          barrier_wait(&s.free[w][at.index], at.phase ^ 1U);
          barrier_expect(full, whole ? kBytes
                                     : eights_bytes<kDims, kFp8>(seen - token) +
                                           (kFp8 ? kGqaScaleBytes : 0));
          if constexpr (kFp8) {
            const Fp8Scale* scales = a.scales + block[w / 2] * a.scale_stride +
                                     head * a.scale_head_stride + half * kGqaBlockTokens +
                                     w % 2 * kGqaGranuleTokens;
            copy_scales(s.scales[w][at.index], scales, full);
          }
          uint8_t* stage = s.ring[w][at.index];
          const int32_t inside = w % 2 * kGqaGranuleTokens;
          if (whole) {
            copy_granule(stage, map, full, inside, column_tile, half, block[w / 2], policy);
          } else {
            copy_eights<kDims, kFp8>(stage, eights, full, inside, column_tile, half, block[w / 2],
                                     policy, seen - token);
          }
          at.advance();
        }
      }
    }
  });
}

// A warp's part of a chunk: its sums and statistics end in shared memory. Returns whether it had
// tokens: then it holds the stage s.place[warp], which it frees when all have read it.
template <int kDims, int kGroups, bool kFp8>
__device__ bool compute_granule(const GqaDecodeArgs& a, GqaShared<kDims, kGroups, kFp8>& s,
                                GqaTile<kDims, kGroups>& tile, int32_t first_token, int32_t seen,
                                uint32_t turn, PlaceOf<kDims, kGroups, kFp8>& at) {
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t warp = threadIdx.x / 32;
  if (first_token >= seen) {
    if (lane < 8 * kGroups) s.statistics[turn][warp][lane] = float2{-INFINITY, 0.0F};
    return false;
  }
  float scores[2][kGroups][4];
  barrier_wait(&s.full[warp][at.index], at.phase);
  const uint32_t keys = shared_address(s.ring[warp][at.index]);
  if constexpr (kFp8) {
    add_scores_fp8(tile, keys, s.scales[warp][at.index], scores);
  } else {
    add_scores(tile, keys, scores);
  }
  barrier_arrive_of_warp<kFp8>(&s.free[warp][at.index]);
  at.advance();
  weigh(tile, scores, first_token, a.scale_log2);
  barrier_wait(&s.full[warp][at.index], at.phase);
  uint8_t* values = s.ring[warp][at.index];
  if constexpr (kFp8) {
    uint32_t weights[2][kGroups][2];
    const int32_t count = seen - first_token;
    if (count < kGqaGranuleTokens) clear_codes<kDims>(values, count);
    const float factor = scale_weights(scores, s.scales[warp][at.index], count, weights);
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
    const auto* sums = reinterpret_cast<const float*>(s.ring[w][s.place[turn][w]]);
    const auto part = *reinterpret_cast<const LaneFloats<kEach>*>(
        sums + sum_at<kDims>(pair, lane * kEach));
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
        if (held >= 0) barrier_arrive_of_warp<kFp8>(&s.free[warp][held]);
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
          barrier_arrive_of_warp<kFp8>(&s.free[warp][at.index]);
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
  if (threadIdx.x < kGqaWarps * s.kStages) {
    barrier_init(&s.full[0][0] + threadIdx.x, 1);
    barrier_init(&s.free[0][0] + threadIdx.x, kWarpArrivals<kFp8>);
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
