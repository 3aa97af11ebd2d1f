// Decode attention for tiles of 64 (token, head) pairs, bound by the tensor cores as much as by
// the cache's bytes. Two warpgroups share two blocks of the cache at a time: each computes the
// scores of one block, and both blocks' part of one half of the output's columns, so that one's
// softmax runs under the other's products (a seesaw, after DeepSeek's FlashMLA; see
// docs/kernels/mla_decode.md). One thread copies.
#pragma once

#include "mla_decode_common.cuh"
#include "mla_wide_rows.cuh"

namespace fathom::kernels {

inline constexpr int kWideThreads = 384;  // two warpgroups that compute, and one that copies

// Tiles of a block are freed in two groups: group g by warpgroup g, whose output columns they feed.
// Tile 8 (the rope key) goes with the group that reads weights from shared memory last: weights of
// block 1 lie in its place.
struct WideShared {
  alignas(1024) uint8_t queries[9 * kTileBytes];
  alignas(1024) uint8_t blocks[2][9 * kTileBytes];
  alignas(1024) uint8_t weights[kTileBytes];  // of block 0: bf16 [pairs, 64 tokens], swizzled
  WidePeaks peaks[2];                         // after block 0, after block 1
  uint64_t full[2][2];                        // [block][group]
  uint64_t free[2][2];
  uint64_t query_full;
  uint64_t query_free;
};

enum WideBarrier : int { kWeights0 = 1, kWeights1, kGroup0, kGroup1 };

template <int kNumber, int kThreads>
__device__ void named_arrive() {
  asm volatile("bar.arrive %0, %1;" ::"n"(kNumber), "n"(kThreads) : "memory");
}

// This block of threads' share of a group: half of its tiles, and the rope's tile of one block in
// two, when a cluster shares the cache's blocks; else all.
template <int kCluster>
__device__ void wide_copy_group(WideShared& s, const CUtensorMap* cache, int32_t block, int place,
                                int group, uint32_t phase, int rank) {
  const bool with_rope = group == 1 - place;
  barrier_wait(&s.free[place][group], phase ^ 1U);
  uint64_t* full = &s.full[place][group];
  barrier_expect(full, (with_rope ? 5 : 4) * kTileBytes);
  constexpr int kShare = 4 / kCluster;
  for (int i = 0; i < kShare; ++i) {
    const int tile = group * 4 + rank * kShare + i;
    copy_tile_of_block<kCluster>(s.blocks[place] + tile * kTileBytes, cache, full, tile, block,
                                 kEvictFirst);
  }
  if (with_rope && (kCluster == 1 || rank == place))
    copy_tile_of_block<kCluster>(s.blocks[place] + 8 * kTileBytes, cache, full, 8, block,
                                 kEvictFirst);
}

template <int kCluster>
__device__ void wide_copy(const MlaDecodeArgs& a, WideShared& s, const CUtensorMap* cache,
                          const CUtensorMap* queries) {
  const int32_t number = static_cast<int32_t>(blockIdx.x) / a.tiles;
  const int32_t tile = static_cast<int32_t>(blockIdx.x) % a.tiles;
  const int rank = static_cast<int>(blockIdx.x) % kCluster;
  uint32_t phase[2] = {0, 0};
  uint32_t query_phase = 0;
  EarlierKernels earlier;
  for_each_piece(a, number, [&](const MlaPiece& piece) {
    const int32_t* table = a.rows.block_table + a.rows.slot[piece.row] * a.rows.table_stride;
    const auto block_at = [&](int32_t t) { return t < piece.end ? table[t] : 0; };
    int32_t block = block_at(piece.begin);
    int32_t next = block_at(piece.begin + 1);
    int32_t later = block_at(piece.begin + 2);
    const auto copy_row_queries = [&] {
      earlier.wait();
      barrier_wait(&s.query_free, query_phase ^ 1U);
      query_phase ^= 1U;
      barrier_expect(&s.query_full, 9 * kTileBytes);
      copy_queries(s.queries, queries, &s.query_full,
                   a.rows.first[piece.row] * a.heads + tile * kWidePairs);
    };
    const int32_t ask = earlier.queries_at(a, piece, 2);
    for (int32_t t = piece.begin; t < piece.end; ++t) {
      const int place = (t - piece.begin) & 1;
      const int32_t latest = block_at(t + 3);
      if (t == ask) copy_row_queries();
      wide_copy_group<kCluster>(s, cache, block, place, 0, phase[place], rank);
      wide_copy_group<kCluster>(s, cache, block, place, 1, phase[place], rank);
      if (t + 2 < piece.end) {
        for (int i = rank; i < 9; i += kCluster) prefetch_tile_of_block(cache, i, later);
      }
      phase[place] ^= 1U;
      block = next;
      next = later;
      later = latest;
    }
    if (ask == piece.end) copy_row_queries();
  });
  earlier.wait();
}

// Tokens past a row's end may hold anything that an earlier sequence left: 0 times that must be 0.
template <int kGroupBarrier>
__device__ void wide_clear_tokens(uint8_t* block, int32_t first) {
  for (int i = first * 8 + static_cast<int>(threadIdx.x % 128); i < 64 * 8; i += 128) {
#pragma unroll
    for (int tile = 0; tile < 8; ++tile)
      *reinterpret_cast<uint4*>(block + tile * kTileBytes + i * 16) = uint4{0, 0, 0, 0};
  }
  fence_for_async();
  named_barrier<kGroupBarrier, 128>();
}

// One piece's bounds as its warpgroups see them.
struct WidePiece {
  int32_t begin = 0;
  int32_t end = 0;
  int32_t seen_by_all = 0;  // tokens that every pair sees
  int32_t seen = 0;         // that the last one sees

  __device__ bool edge(int32_t t) const { return (t + 1) * kMlaBlockTokens > seen_by_all; }
  __device__ bool unclean(int32_t t) const { return (t + 1) * kMlaBlockTokens > seen; }
};

// Warpgroup 0's part of a pair of blocks: the even block's scores, the outputs' left half. kBoth:
// there is an odd block. kLast: a block may be cut by the row's end.
template <int kCluster, bool kBoth, bool kLast>
__device__ void wide_left(const MlaDecodeArgs& a, WideShared& s, const WidePiece& p, int32_t t,
                          uint32_t phase, WideState& state) {
  const uint32_t block0 = shared_address(s.blocks[0]);
  const uint32_t block1 = shared_address(s.blocks[1]);
  const uint32_t queries = shared_address(s.queries);
  const bool leader = threadIdx.x % 32 == 0;
  float scores[32];
  float fade[2];
  float sums[2];
  uint32_t packed[4][4];
  barrier_wait(&s.full[0][0], phase);
  wgmma_fence();
  wide_scores(block0, queries, scores, 0, 4, true);
  barrier_wait(&s.full[0][1], phase);
  wgmma_fence();
  wide_scores(block0, queries, scores, 4, 9, false);
  wgmma_commit();
  wgmma_wait<0>();
  wide_softmax(a, state, scores, t * kMlaBlockTokens, p.edge(t), fade, sums, packed);
  wide_give_peaks(s.peaks[0], state, sums);
  wide_store_weights(packed, shared_address(s.weights));
  if (kLast && p.unclean(t)) wide_clear_tokens<kGroup0>(s.blocks[0], p.seen - t * kMlaBlockTokens);
  fence_for_async();
  named_arrive<kWeights0, 256>();
  wide_fade(state, fade);
  wide_values(state, packed, block0);
  wide_wait<0>(state);
  if (leader) barrier_arrive_everywhere<kCluster>(&s.free[0][0]);
  if constexpr (kBoth) {
    named_barrier<kWeights1, 256>();
    wide_take_peaks(s.peaks[1], state, fade);
    wide_fade(state, fade);
    wide_values(state, block1 + 8 * kTileBytes, block1);
    wide_wait<0>(state);
    if (leader) barrier_arrive_everywhere<kCluster>(&s.free[1][0]);
  }
}

// Warpgroup 1's part of an even block: the outputs' right half.
template <int kCluster>
__device__ void wide_right_single(WideShared& s, WideState& state) {
  float fade[2];
  named_barrier<kWeights0, 256>();
  wide_take_peaks(s.peaks[0], state, fade);
  wide_fade(state, fade);
  wide_values(state, shared_address(s.weights), shared_address(s.blocks[0]) + 4 * kTileBytes);
  wide_wait<0>(state);
  if (threadIdx.x % 32 == 0) barrier_arrive_everywhere<kCluster>(&s.free[0][1]);
}

// Warpgroup 1's part: the odd block's scores, the outputs' right half. The even block's products
// come before these scores: so the two blocks are freed half a round apart, and one is copied under
// the other's products.
template <int kCluster, bool kLast>
__device__ void wide_right(const MlaDecodeArgs& a, WideShared& s, const WidePiece& p, int32_t t,
                           uint32_t phase, WideState& state) {
  const uint32_t block1 = shared_address(s.blocks[1]);
  const uint32_t queries = shared_address(s.queries);
  const bool leader = threadIdx.x % 32 == 0;
  float scores[32];
  float fade[2];
  float sums[2];
  uint32_t packed[4][4];
  wide_right_single<kCluster>(s, state);
  barrier_wait(&s.full[1][0], phase);
  wgmma_fence();
  wide_scores(block1, queries, scores, 0, 4, true);
  barrier_wait(&s.full[1][1], phase);
  wgmma_fence();
  wide_scores(block1, queries, scores, 4, 9, false);
  wgmma_commit();
  wgmma_wait<0>();
  named_barrier<kGroup1, 128>();  // all have read the rope's tile: weights go there
  if (kLast && p.unclean(t + 1))
    wide_clear_tokens<kGroup1>(s.blocks[1], p.seen - (t + 1) * kMlaBlockTokens);
  wide_softmax(a, state, scores, (t + 1) * kMlaBlockTokens, p.edge(t + 1), fade, sums, packed);
  wide_give_peaks(s.peaks[1], state, sums);
  wide_store_weights(packed, block1 + 8 * kTileBytes);
  fence_for_async();
  named_arrive<kWeights1, 256>();
  wide_fade(state, fade);
  wide_values(state, packed, block1 + 4 * kTileBytes);
  wide_wait<0>(state);
  if (leader) barrier_arrive_everywhere<kCluster>(&s.free[1][1]);
}

template <int kCluster>
__device__ void wide_left_piece(const MlaDecodeArgs& a, WideShared& s, const WidePiece& p,
                                uint32_t& phase, WideState& state) {
  int32_t t = p.begin;
  for (; t + 2 < p.end; t += 2) {
    wide_left<kCluster, true, false>(a, s, p, t, phase, state);
    phase ^= 1U;
  }
  if (t + 2 == p.end) {
    wide_left<kCluster, true, true>(a, s, p, t, phase, state);
  } else {
    wide_left<kCluster, false, true>(a, s, p, t, phase, state);
  }
  phase ^= 1U;
}

// An odd count of blocks leaves block 1 out of the last pair: its phase does not turn.
template <int kCluster>
__device__ void wide_right_piece(const MlaDecodeArgs& a, WideShared& s, const WidePiece& p,
                                 uint32_t& phase, WideState& state) {
  int32_t t = p.begin;
  for (; t + 2 < p.end; t += 2) {
    wide_right<kCluster, false>(a, s, p, t, phase, state);
    phase ^= 1U;
  }
  if (t + 2 == p.end) {
    wide_right<kCluster, true>(a, s, p, t, phase, state);
    phase ^= 1U;
  } else {
    wide_right_single<kCluster>(s, state);
  }
}

// The whole row's output, or a partial one.
__device__ inline void wide_finish(const MlaDecodeArgs& a, const MlaPiece& piece, int32_t tile,
                                   const WideState& state) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int group = static_cast<int>(threadIdx.x / 128);
  const int inside = static_cast<int>(threadIdx.x % 128 / 32) * 16 + lane / 4;
  const int32_t pairs = a.rows.query[piece.row] * a.heads;
  const int column = group * 256 + lane % 4 * 2;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int32_t pair = tile * kWidePairs + inside + r * 8;
    if (pair >= pairs) continue;
    if (piece.whole) {
      const float inverse = state.total[r] > 0.0F ? 1.0F / state.total[r] : 0.0F;
      __nv_bfloat16* to =
          a.out + (int64_t{a.rows.first[piece.row]} * a.heads + pair) * kMlaLatent + column;
#pragma unroll
      for (int j = 0; j < 32; ++j)
        *reinterpret_cast<uint32_t*>(to + j * 8) =
            pack_bf16(state.sums[j * 4 + r * 2] * inverse, state.sums[j * 4 + r * 2 + 1] * inverse);
    } else {
      const int32_t slot =
          piece.cut.first_slot + static_cast<int32_t>(blockIdx.x) / a.tiles - piece.cut.origin;
      const int64_t row = (int64_t{slot} * a.tiles + tile) * kWidePairs + inside + r * 8;
      float* to = a.partial + row * kMlaLatent + column;
#pragma unroll
      for (int j = 0; j < 32; ++j)
        *reinterpret_cast<float2*>(to + j * 8) =
            float2{state.sums[j * 4 + r * 2], state.sums[j * 4 + r * 2 + 1]};
      if (group == 0 && lane % 4 == 0)
        *reinterpret_cast<float2*>(a.partial_weights + 2 * row) =
            float2{state.peak[r], state.total[r]};
    }
  }
}

template <int kCluster>
__device__ void wide_compute(const MlaDecodeArgs& a, WideShared& s) {
  const int32_t number = static_cast<int32_t>(blockIdx.x) / a.tiles;
  const int32_t tile = static_cast<int32_t>(blockIdx.x) % a.tiles;
  uint32_t phase = 0;
  uint32_t query_phase = 0;
  WideState state;
  for_each_piece(a, number, [&](const MlaPiece& piece) {
    wide_begin(a, piece, tile, state);
    WidePiece p{piece.begin, piece.end, a.rows.context[piece.row] + 1, 0};
    p.seen = p.seen_by_all + a.rows.query[piece.row] - 1;
    barrier_wait(&s.query_full, query_phase);
    query_phase ^= 1U;
    if (threadIdx.x < 128) {
      wide_left_piece<kCluster>(a, s, p, phase, state);
    } else {
      wide_right_piece<kCluster>(a, s, p, phase, state);
    }
    if (threadIdx.x % 32 == 0) barrier_arrive(&s.query_free);
    wide_finish(a, piece, tile, state);
  });
}

template <int kCluster>
__global__ void __launch_bounds__(kWideThreads, 1)
    mla_wide_kernel(const __grid_constant__ CUtensorMap cache,
                    const __grid_constant__ CUtensorMap queries,
                    const __grid_constant__ MlaDecodeArgs a) {
  extern __shared__ uint8_t raw[];
  auto& s = *reinterpret_cast<WideShared*>(raw + (0U - shared_address(raw)) % 1024U);
  if (threadIdx.x == 0) {
    for (int i = 0; i < 4; ++i) {
      barrier_init(&s.full[i / 2][i % 2], 1);
      barrier_init(&s.free[i / 2][i % 2], 4 * kCluster);
    }
    barrier_init(&s.query_full, 1);
    barrier_init(&s.query_free, 8);
    barrier_init_done();
  }
  let_next_kernel_start();
  cluster_barrier<kCluster>();
  if (threadIdx.x < 256) {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    wide_compute<kCluster>(a, s);
  } else {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (threadIdx.x == 256) wide_copy<kCluster>(a, s, &cache, &queries);
  }
  cluster_barrier<kCluster>();  // the other block may still write here, or arrive
}

}  // namespace fathom::kernels
