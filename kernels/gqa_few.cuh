// Attention of one row and key head on several blocks. Of a row of one segment a block takes every
// n-th chunk and leaves its results as words that say by themselves that they are there; of a
// longer one the chunks are shared out in runs, and blocks wait for each other.
#pragma once

#include "gqa_few_exchange.cuh"
#include "gqa_heads.cuh"
#include "ring_place.cuh"

namespace fathom::kernels {

inline constexpr int kFewPairs = 8;
inline constexpr uint32_t kFewStages = 3;

template <int kDims>
struct GqaFewShared {
  alignas(1024) uint8_t ring[kGqaWarps][kFewStages][kGqaStageBytes<kDims>];
  alignas(16) __nv_bfloat16 queries[kFewPairs][kDims];
  alignas(16) __nv_bfloat16 fresh[2][kDims];         // the new token's key and value
  alignas(16) float kept[kGqaSegmentChunks][kDims];  // of one pair: a row's only segment
  float2 kept_statistics[kGqaSegmentChunks];
  float2 statistics[kGqaWarps][kFewPairs];
  uint64_t full[kGqaWarps][kFewStages];
  uint64_t free[kGqaWarps][kFewStages];
  uint32_t place[kGqaWarps];
};

// 32 tokens of a block: the keys (half 0) or values (half 1) of one key head.
__device__ inline void copy_few(void* to, const CUtensorMap* map, uint64_t* barrier, int32_t token,
                                int32_t column_tile, int32_t half, int32_t block) {
  constexpr uint64_t kEvictFirst = 0x12F0000000000000;
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1, {%3, %4, %5, %6, %7}], [%2], %8;" ::"r"(shared_address(to)),
      "l"(map), "r"(shared_address(barrier)), "r"(0), "r"(token), "r"(column_tile), "r"(half),
      "r"(block), "l"(kEvictFirst)
      : "memory");
}

// One thread: the share's keys and values, a granule for each warp in turn.
template <int kDims>
__device__ void copy_share(const GqaFewArgs& a, GqaFewShared<kDims>& s, const GqaFewShare& share,
                           const CUtensorMap* map) {
  const GqaDecodeRows& rows = a.decode.rows;
  const int32_t* table = rows.block_table + share.slot * rows.table_stride;
  if (share.begin >= share.end) return;
  const int32_t blocks = (share.seen + kGqaBlockTokens - 1) / kGqaBlockTokens;
  const auto block_at = [&](int32_t i) { return i < blocks ? table[i] : 0; };
  const int32_t column_tile = share.head * (kDims / 64);
  RingPlace<kFewStages> places[kGqaWarps];
  int32_t next[2] = {block_at(2 * share.begin), block_at(2 * share.begin + 1)};
  for (int32_t c = share.begin; c < share.end; c += share.step) {
    const int32_t block[2] = {next[0], next[1]};
    if (c + share.step < share.end) {
      next[0] = block_at(2 * (c + share.step));
      next[1] = block_at(2 * (c + share.step) + 1);
    }
#pragma unroll
    for (int32_t w = 0; w < kGqaWarps; ++w) {
      if (c * kGqaChunkTokens + w * kGqaGranuleTokens >= share.seen) continue;
#pragma unroll
      for (int32_t half = 0; half < 2; ++half) {
        RingPlace<kFewStages>& at = places[w];
        barrier_wait(&s.free[w][at.index], at.phase ^ 1U);
        barrier_expect(&s.full[w][at.index], kGqaStageBytes<kDims>);
        copy_few(s.ring[w][at.index], map, &s.full[w][at.index], w % 2 * kGqaGranuleTokens,
                 column_tile, half, block[w / 2]);
        at.advance();
      }
    }
  }
}

// Where the new token's key is cached; its value lies behind all keys.
template <int kDims>
__device__ __nv_bfloat16* cached_key(const GqaFewArgs& a, const GqaFewShare& share) {
  const GqaDecodeRows& rows = a.decode.rows;
  const int32_t position = share.seen - 1;
  const int64_t block =
      rows.block_table[share.slot * rows.table_stride + position / kGqaBlockTokens];
  const int64_t entry = block * kGqaBlockTokens + position % kGqaBlockTokens;
  return static_cast<__nv_bfloat16*>(a.batch.cache) +
         (entry * 2 * a.decode.kv_heads + share.head) * int64_t{kDims};
}

// The heads that the block's key head needs, a warp each in turn: its queries, and in the block
// of the row's last token the new key and value, which go to the cache as well.
template <int kDims>
__device__ void prepare_few(const GqaFewArgs& a, GqaFewShared<kDims>& s, const GqaFewShare& share) {
  constexpr int kEach = kDims / 64;
  constexpr int kTurns = (kFewPairs + 2 + kGqaWarps - 1) / kGqaWarps;
  const auto lane = static_cast<int>(threadIdx.x % 32);
  const auto warp = static_cast<int32_t>(threadIdx.x / 32);
  const GqaDecodeArgs& d = a.decode;
  const int32_t all = d.group + (share.has_new_token() ? 2 : 0);
  const auto head_of = [&](int32_t i) {
    if (i < d.group) return share.head * d.group + i;
    return d.heads + (i - d.group) * d.kv_heads + share.head;
  };
  const LaneRope<kEach> rope = load_rope<kEach>(a.batch, share.seen - 1, lane);
  __nv_bfloat16* const key = share.has_new_token() ? cached_key<kDims>(a, share) : nullptr;
  const auto norm_of = [&](int32_t i) -> const float* {
    return i == d.group + 1 ? nullptr : i < d.group ? a.heads.q_norm : a.heads.k_norm;
  };
  LaneHead<kEach> heads[kTurns];
  LaneHead<kEach> bias[kTurns];
  LaneHead<kEach> gain[kTurns];
#pragma unroll
  for (int turn = 0; turn < kTurns; ++turn) {
    const int32_t i = turn * kGqaWarps + warp;
    if (i >= all) break;
    const float* from = a.heads.bias == nullptr ? nullptr : a.heads.bias + head_of(i) * kDims;
    bias[turn] = load_lane<kEach>(from, lane);
    gain[turn] = load_lane<kEach>(norm_of(i), lane);
  }
  wait_for_earlier_kernels();
#pragma unroll
  for (int turn = 0; turn < kTurns; ++turn) {
    const int32_t i = turn * kGqaWarps + warp;
    const auto* from = a.qkv + share.row * a.qkv_stride + int64_t{head_of(i)} * kDims;
    if (i < all) heads[turn] = load_lane<kEach>(from, lane);
  }
#pragma unroll
  for (int turn = 0; turn < kTurns; ++turn) {
    const int32_t i = turn * kGqaWarps + warp;
    if (i >= all) break;
    ready_head(heads[turn], bias[turn], gain[turn], norm_of(i) != nullptr, a.norm_epsilon);
    if (i != d.group + 1) turn_head(heads[turn], rope);
    if (i < d.group) {
      store_lane<kEach>(s.queries[i], lane, heads[turn]);
      continue;
    }
    store_lane<kEach>(s.fresh[i - d.group], lane, heads[turn]);
    store_lane<kEach>(key + (i - d.group) * int64_t{d.kv_heads} * kDims, lane, heads[turn]);
  }
}

// Queries from shared memory; pairs that do not exist see nothing.
template <int kDims>
__device__ void take_queries(const GqaFewArgs& a, const GqaFewShared<kDims>& s,
                             const GqaFewShare& share, GqaTile<kDims, 1>& t) {
  const auto lane = static_cast<int32_t>(threadIdx.x % 32);
  const int32_t pair = lane / 4;
  const __nv_bfloat16* from = s.queries[pair] + lane % 4 * 2;
#pragma unroll
  for (int k = 0; k < kDims / 16; ++k) {
#pragma unroll
    for (int i = 0; i < 2; ++i)
      t.query[0][k][i] =
          pair < a.decode.group ? *reinterpret_cast<const uint32_t*>(from + 16 * k + 8 * i) : 0U;
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) t.visible[0][i] = lane % 4 * 2 + i < a.decode.group ? share.seen : 0;
}

// The new token's key or value in the place that the copy engine filled with what was there before.
template <int kDims>
__device__ void put_fresh(uint8_t* stage, int32_t token, const __nv_bfloat16* from) {
  const auto lane = static_cast<int32_t>(threadIdx.x % 32);
  if (lane < kDims / 8) {
    const int32_t unit = lane % 8 ^ (token & 7);
    *reinterpret_cast<uint4*>(stage + lane / 8 * kGqaTileBytes + token * 128 + unit * 16) =
        *reinterpret_cast<const uint4*>(from + lane * 8);
  }
  __syncwarp();
}

// A warp's part of a chunk, as gqa_decode's.
template <int kDims>
__device__ bool compute_few(const GqaFewArgs& a, GqaFewShared<kDims>& s, GqaTile<kDims, 1>& tile,
                            int32_t first_token, int32_t seen, RingPlace<kFewStages>& at) {
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t warp = threadIdx.x / 32;
  if (first_token >= seen) {
    if (lane < kFewPairs) s.statistics[warp][lane] = float2{-INFINITY, 0.0F};
    return false;
  }
  const int32_t last = seen - 1 - first_token;  // the new token, if this granule has it
  float scores[2][1][4];
  SplitWeights weights[2][1];
  barrier_wait(&s.full[warp][at.index], at.phase);
  uint8_t* keys = s.ring[warp][at.index];
  if (last < kGqaGranuleTokens) put_fresh<kDims>(keys, last, s.fresh[0]);
  add_scores(tile, shared_address(keys), scores);
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  __syncwarp();
  if (lane == 0) barrier_arrive(&s.free[warp][at.index]);
  at.advance();
  weigh(tile, scores, first_token, a.decode.scale_log2);
  split_weights(scores, weights);
  barrier_wait(&s.full[warp][at.index], at.phase);
  uint8_t* values = s.ring[warp][at.index];
  if (last < kGqaGranuleTokens) {
    put_fresh<kDims>(values, last, s.fresh[1]);
    clear_tokens<kDims>(values, last + 1);
  }
  add_values(tile, shared_address(values), weights);
  __syncwarp();
  store_sums<false>(tile, reinterpret_cast<float*>(values), s.statistics[warp]);
  if (lane == 0) s.place[warp] = at.index;
  return true;
}

// The four warps' results of a chunk for one pair, in the order of their tokens.
template <int kDims>
__device__ GqaPartial<kDims / 32> few_chunk(const GqaFewShared<kDims>& s, uint32_t pair) {
  constexpr int kEach = kDims / 32;
  const uint32_t lane = threadIdx.x % 32;
  GqaPartial<kEach> all{};
  all.peak = -INFINITY;
#pragma unroll
  for (uint32_t w = 0; w < kGqaWarps; ++w) all.peak = fmaxf(all.peak, s.statistics[w][pair].x);
#pragma unroll
  for (uint32_t w = 0; w < kGqaWarps; ++w) {
    const float2 statistics = s.statistics[w][pair];
    if (statistics.x == -INFINITY) continue;
    const float weight = exp2_fast(statistics.x - all.peak);
    const auto* sums = reinterpret_cast<const float*>(s.ring[w][s.place[w]]);
    const auto part = *reinterpret_cast<const LaneFloats<kEach>*>(
        sums + sum_at<kDims, false>(pair, lane * kEach));
    all.total = __fmaf_rn(statistics.y, weight, all.total);
#pragma unroll
    for (int d = 0; d < kEach; ++d) all.sum[d] = __fmaf_rn(part.x[d], weight, all.sum[d]);
  }
  return all;
}

// After a chunk: to the exchange (a row of one segment), into `whole` (a segment of this block
// alone), or to a partial result's place.
template <int kDims>
__device__ void keep_chunk(const GqaFewArgs& a, GqaFewShared<kDims>& s, const GqaFewShare& share,
                           int32_t c, GqaPartials<kDims, 1>& whole) {
  constexpr int kEach = kDims / 32;
  const auto lane = static_cast<int32_t>(threadIdx.x % 32);
  const int32_t segment = c / kGqaSegmentChunks;
  const int32_t first = segment * kGqaSegmentChunks;
  const bool alone = first >= share.begin && share.segment_end(segment) <= share.end;
  const bool one = share.segments() == 1;
  if (alone && c == first) whole.clear();
  whole.each(a.decode.group, [&](int32_t pair, auto& p) {
    const auto x = few_chunk(s, static_cast<uint32_t>(pair));
    if (one) {
      const float statistics[2] = {x.peak, x.total};
      uint32_t* to = exchanged<kDims>(a, share, c, pair);
      put_words<kEach>(to + lane * kEach, x.sum);
      if (lane == 0) put_words<2>(to + kDims, statistics);
    } else if (alone) {
      fold(p, x);
    } else {
      write_partial(a.decode,
                    chunk_slot(a.decode, share.block_of(share.rank), c, first < share.begin),
                    pair, x);
    }
  });
  if (one || !alone || c + 1 != share.segment_end(segment)) return;
  const int32_t slot = segment_slot(a.decode, share.block_of(share.rank), segment);
  whole.each(a.decode.group,
             [&](int32_t pair, const auto& p) { write_partial(a.decode, slot, pair, p); });
}

// The warps that compute: the block's chunks.
template <int kDims>
__device__ void compute_share(const GqaFewArgs& a, GqaFewShared<kDims>& s,
                              const GqaFewShare& share) {
  const auto warp = static_cast<int32_t>(threadIdx.x / 32);
  RingPlace<kFewStages> at;
  GqaTile<kDims, 1> tile;
  GqaPartials<kDims, 1> whole;
  prepare_few(a, s, share);
  compute_barrier();
  take_queries(a, s, share, tile);
  for (int32_t c = share.begin; c < share.end; c += share.step) {
    const int32_t token = c * kGqaChunkTokens + warp * kGqaGranuleTokens;
    const bool had = compute_few(a, s, tile, token, share.seen, at);
    compute_barrier();
    keep_chunk(a, s, share, c, whole);
    if (c + share.step >= share.end) break;
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    compute_barrier();
    if (had) {
      if (threadIdx.x % 32 == 0) barrier_arrive(&s.free[warp][at.index]);
      at.advance();
    }
  }
}

// Of a row of one segment, the chunks of this block's pair, as they come. All warps that compute.
template <int kDims>
__device__ void gather_kept(const GqaFewArgs& a, GqaFewShared<kDims>& s,
                            const GqaFewShare& share) {
  constexpr int kEach = kDims / 32;
  constexpr int kOf = kGqaSegmentChunks / kGqaWarps;
  const auto lane = static_cast<int32_t>(threadIdx.x % 32);
  const auto warp = static_cast<int32_t>(threadIdx.x / 32);
  FewWords<kEach> sums[kOf];
  FewWords<2> statistics[kOf];
#pragma unroll
  for (int i = 0; i < kOf; ++i) {
    const int32_t c = warp + i * kGqaWarps;
    if (c >= share.chunks) continue;
    const uint32_t* from = exchanged<kDims>(a, share, c, share.rank);
    sums[i] = get_words<kEach>(from + lane * kEach);
    if (lane == 0) statistics[i] = get_words<2>(from + kDims);
  }
#pragma unroll
  for (int i = 0; i < kOf; ++i) {
    const int32_t c = warp + i * kGqaWarps;
    if (c >= share.chunks) continue;
    uint32_t* from = exchanged<kDims>(a, share, c, share.rank);
    while (!sums[i].whole()) sums[i] = get_words<kEach>(from + lane * kEach);
#pragma unroll
    for (int d = 0; d < kEach; ++d) s.kept[c][lane * kEach + d] = __uint_as_float(~sums[i].x[d]);
    clear_words<kEach>(from + lane * kEach);
    if (lane != 0) continue;
    while (!statistics[i].whole()) statistics[i] = get_words<2>(from + kDims);
    s.kept_statistics[c] =
        float2{__uint_as_float(~statistics[i].x[0]), __uint_as_float(~statistics[i].x[1])};
    clear_words<2>(from + kDims);
  }
  compute_barrier();
}

// The chunks of a row of one segment, in their order: as fold_all, from shared memory.
template <int kDims>
__device__ void fold_kept(const GqaFewShared<kDims>& s, const GqaFewShare& share,
                          GqaPartial<kDims / 32>& to) {
  constexpr unsigned kAll = 0xFFFFFFFFU;
  constexpr int kEach = kDims / 32;
  const auto lane = static_cast<int32_t>(threadIdx.x % 32);
  const FoldStep step =
      fold_step(to.peak, lane < share.chunks ? s.kept_statistics[lane] : float2{-INFINITY, 0.0F});
#pragma unroll 4
  for (int32_t c = 0; c < share.chunks; ++c) {
    const auto sums = *reinterpret_cast<const LaneFloats<kEach>*>(&s.kept[c][lane * kEach]);
    add_step(step, c, sums, to);
  }
  to.peak = __shfl_sync(kAll, step.peak, 31);
}

// A row of several segments: its cut segments, then all of them.
template <int kDims>
__device__ void fold_cut_segment(const GqaFewArgs& a, const GqaFewShare& share) {
  if (share.begin >= share.end) return;
  const int32_t segment = (share.end - 1) / kGqaSegmentChunks;
  const int32_t first = segment * kGqaSegmentChunks;
  const int32_t end = share.segment_end(segment);
  if (first < share.begin || end <= share.end) return;  // another's, or whole here
  const int32_t chunk = min(first + static_cast<int32_t>(threadIdx.x % 32), end - 1);
  const int32_t rank = share.rank_of(chunk);
  const int32_t slot = chunk_slot(a.decode, share.block_of(rank), chunk,
                                  first < share.begin_of(rank));
  GqaPartials<kDims, 1> whole;
  whole.clear();
  const int32_t to = segment_slot(a.decode, share.block_of(share.rank), segment);
  whole.each(a.decode.group, [&](int32_t pair, auto& p) {
    fold_slots(a.decode, slot, end - first, pair, p);
    write_partial(a.decode, to, pair, p);
  });
}

template <int kDims>
__device__ void fold_row(const GqaFewArgs& a, const GqaFewShare& share, int32_t pair,
                         GqaPartial<kDims / 32>& to) {
#pragma unroll 1
  for (int32_t s = 0; s < share.segments(); s += kGqaSegmentChunks) {
    const int32_t segment = min(s + static_cast<int32_t>(threadIdx.x % 32), share.segments() - 1);
    const int32_t rank = share.rank_of(segment * kGqaSegmentChunks);
    const int32_t slot = segment_slot(a.decode, share.block_of(rank), segment);
    fold_slots(a.decode, slot, min(kGqaSegmentChunks, share.segments() - s), pair, to);
  }
}

// Behind a block's chunks; a pair is put together by the block of that rank. All threads that
// compute.
template <int kDims>
__device__ void finish_row(const GqaFewArgs& a, GqaFewShared<kDims>& s,
                           const GqaFewShare& share) {
  GqaPartials<kDims, 1> cleared;
  cleared.clear();
  GqaPartial<kDims / 32> row = cleared.of[0];
  const bool has_pair = share.rank < a.decode.group;
  if (share.segments() == 1) {
    if (!has_pair) return;
    gather_kept(a, s, share);
    if (threadIdx.x >= 32) return;
    fold_kept(s, share, row);
  } else {
    arrive_few(a, share);
    await_few(a, share, 1);
    fold_cut_segment<kDims>(a, share);
    arrive_few(a, share);
    if (!has_pair) return;
    await_few(a, share, 2);
    arrive_few(a, share);
    if (threadIdx.x >= 32) return;
    fold_row<kDims>(a, share, share.rank, row);
  }
  write_pair<kDims>(a.decode, share.row, share.head * a.decode.group + share.rank, row);
}

template <int kDims>
__global__ void __launch_bounds__(kGqaThreads, 2)
    gqa_few_kernel(const __grid_constant__ CUtensorMap cache,
                   const __grid_constant__ GqaFewArgs a) {
  extern __shared__ uint8_t raw[];
  auto& s = *reinterpret_cast<GqaFewShared<kDims>*>(raw + (0U - shared_address(raw)) % 1024U);
  if (threadIdx.x < kGqaWarps * kFewStages) {
    barrier_init(&s.full[0][0] + threadIdx.x, 1);
    barrier_init(&s.free[0][0] + threadIdx.x, 1);
    barrier_init_done();
  }
  if (threadIdx.x == kGqaWarps * 32) prefetch_map(&cache);
  let_next_kernel_start();
  __syncthreads();
  // Rows, tables and the cache of earlier tokens are older than the step's first kernel, which
  // starts when all before it has ended: they are read before the wait.
  const GqaFewShare share = few_share(a);
  const bool has_pair = share.rank < a.decode.group;
  if (share.seen == 0) {
    wait_for_earlier_kernels();
    if (has_pair && threadIdx.x < 32)
      clear_head(a.decode.out, kDims, share.row, share.head * a.decode.group + share.rank);
    return;
  }
  if (threadIdx.x == kGqaWarps * 32) {
    // What earlier kernels wrote to the cache, for the copy engine's eyes.
    asm volatile("fence.proxy.async.global;" ::: "memory");
    copy_share(a, s, share, &cache);
  }
  if (threadIdx.x >= kGqaWarps * 32) return;
  if (share.segments() == 1 && share.begin >= share.end && !has_pair) return;
  compute_share(a, s, share);
  finish_row(a, s, share);
}

}  // namespace fathom::kernels
