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

// Tiles of a block are freed in two groups: group g by warpgroup g, whose output columns they feed;
// the rope's keys go with group 0. The queries' last tile is read once a piece, and then holds
// weights of the odd blocks.
struct WideShared {
  alignas(1024) uint8_t queries[9 * kTileBytes];
  alignas(1024) uint8_t blocks[2][9 * kTileBytes];
  alignas(
      1024) uint8_t weights[kTileBytes];  // of the even block: bf16 [pairs, 64 tokens], swizzled
  float peaks[2][kWidePairs];             // after the even block, after the odd one
  float totals[2][2][kWidePairs];         // [piece's parity][warpgroup]
  uint64_t full[2][2];                    // [block][group]
  uint64_t free[2][2];
  uint64_t query_full;
  uint64_t query_free;
};

enum WideBarrier : int { kWeights0 = 1, kWeights1, kGroup0, kGroup1, kTotals };

template <int kNumber, int kThreads>
__device__ void named_arrive() {
  asm volatile("bar.arrive %0, %1;" ::"n"(kNumber), "n"(kThreads) : "memory");
}

// This block of threads' share of a group: half of its tiles, and the rope's tile of one block in
// two, when a cluster shares the cache's blocks; else all.
template <int kCluster>
__device__ void wide_copy_group(WideShared& s, const CUtensorMap* cache, int32_t block, int place,
                                int group, uint32_t phase, int rank) {
  const bool with_rope = group == 0;
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
      const int32_t later = block_at(t + 2);
      if (t == ask) copy_row_queries();
      wide_copy_group<kCluster>(s, cache, block, place, 0, phase[place], rank);
      wide_copy_group<kCluster>(s, cache, block, place, 1, phase[place], rank);
      phase[place] ^= 1U;
      block = next;
      next = later;
    }
    if (ask == piece.end) copy_row_queries();
  });
  earlier.wait();
}

// What both warpgroups see of a piece.
template <int kCluster>
struct WideView {
  const MlaDecodeArgs& a;
  WideShared& s;
  const WidePiece& p;
  uint32_t queries;  // places of tiles (wide_place)
  uint32_t even;     // blocks
  uint32_t odd;
  uint32_t even_weights;
  uint32_t odd_weights;

  __device__ WideView(const MlaDecodeArgs& args, WideShared& shared, const WidePiece& piece)
      : a(args),
        s(shared),
        p(piece),
        queries(wide_place(shared_address(shared.queries))),
        even(wide_place(shared_address(shared.blocks[0]))),
        odd(wide_place(shared_address(shared.blocks[1]))),
        even_weights(wide_place(shared_address(shared.weights))),
        odd_weights(wide_place(shared_address(shared.queries + 8 * kTileBytes))) {}
  __device__ void free_group(int place, int group) const {
    if (threadIdx.x % 32 == 0) barrier_arrive_everywhere<kCluster>(&s.free[place][group]);
  }
};

// Half of a block's scores, those of a group's tiles, are under way after it.
template <int kCluster, int kGroup>
__device__ void wide_half_scores(const WideView<kCluster>& v, const WideState& state, int place,
                                 uint32_t phase, float (&scores)[32]) {
  const uint32_t block = computed_here(place == 0 ? v.even : v.odd);
  const uint32_t queries = computed_here(v.queries);
  barrier_wait(&v.s.full[place][kGroup], phase);
  wgmma_fence();
  wide_scores<kGroup == 0, kGroup * 4>(block, queries, scores);
  if constexpr (kGroup == 0) wide_rope_scores(state, block, scores);
  wgmma_commit();
}

// Warpgroup 0's part of a pair of blocks: from the even block's scores to those of the next pair,
// and the outputs' left half. kBoth: there is an odd block. kNext: there is a next pair; where
// there is none, a block may be cut by the row's end.
template <int kCluster, bool kBoth, bool kNext>
__device__ void wide_left(const WideView<kCluster>& v, int32_t t, uint32_t phase,
                          float (&scores)[32], WideState& state) {
  float fade[2];
  uint32_t packed[4][4];
  const bool rises =
      wide_softmax(v.a, state, scores, t * kMlaBlockTokens, v.p.edge(t), fade, packed);
  wide_give(v.s.peaks[0], state.peak);
  wide_store_weights(packed, shared_address(v.s.weights));
  if (!kNext && v.p.unclean(t))
    wide_clear_tokens<kGroup0>(v.s.blocks[0], v.p.seen - t * kMlaBlockTokens);
  fence_for_async();
  named_arrive<kWeights0, 256>();
  if (rises) wide_fade(state, fade);
  wide_values<0>(state, packed, v.even);
  wide_wait<0>(state);
  v.free_group(0, 0);
  if constexpr (kBoth) {
    named_barrier<kWeights1, 256>();
    if (wide_take_peaks(v.s.peaks[1], state, fade)) wide_fade(state, fade);
    wide_values<0>(state, v.odd_weights, v.odd);
    wide_wait<0>(state);
    v.free_group(1, 0);
    if constexpr (kNext) {
      wide_half_scores<kCluster, 0>(v, state, 0, phase, scores);
      wide_half_scores<kCluster, 1>(v, state, 0, phase, scores);
      wgmma_wait<0>();
      wgmma_use(scores);
    }
  }
}

// The even block's products with the right half, under way after it.
template <int kCluster>
__device__ void wide_right_even(const WideView<kCluster>& v, WideState& state) {
  float fade[2];
  named_barrier<kWeights0, 256>();
  if (wide_take_peaks(v.s.peaks[0], state, fade)) {
    wgmma_wait<0>();
    wide_fade(state, fade);
  }
  wide_values<1>(state, v.even_weights, v.even);
}

// Warpgroup 1's part: the odd block's scores, the outputs' right half. The even block's products
// are asked for behind the odd block's scores, so that they run under its softmax.
template <int kCluster, bool kLast>
__device__ void wide_right(const WideView<kCluster>& v, int32_t t, uint32_t phase,
                           WideState& state) {
  float scores[32];
  float fade[2];
  uint32_t packed[4][4];
  wide_half_scores<kCluster, 0>(v, state, 1, phase, scores);
  wide_half_scores<kCluster, 1>(v, state, 1, phase, scores);
  wide_right_even(v, state);
  wgmma_wait<1>();
  wgmma_use(scores);
  const bool rises =
      wide_softmax(v.a, state, scores, (t + 1) * kMlaBlockTokens, v.p.edge(t + 1), fade, packed);
  wide_give(v.s.peaks[1], state.peak);
  wide_wait<0>(state);  // of the even block, long over: its places may be filled again
  v.free_group(0, 1);
  wide_store_weights(packed, shared_address(v.s.queries + 8 * kTileBytes));
  if (kLast && v.p.unclean(t + 1))
    wide_clear_tokens<kGroup1>(v.s.blocks[1], v.p.seen - (t + 1) * kMlaBlockTokens);
  fence_for_async();
  named_arrive<kWeights1, 256>();
  if (rises) wide_fade(state, fade);
  wide_values<1>(state, packed, v.odd);
  wide_wait<0>(state);
  v.free_group(1, 1);
}

template <int kCluster>
__device__ void wide_left_piece(const WideView<kCluster>& v, uint32_t& phase, WideState& state) {
  float scores[32];
  wide_half_scores<kCluster, 0>(v, state, 0, phase, scores);
  wide_half_scores<kCluster, 1>(v, state, 0, phase, scores);
  wgmma_wait<0>();
  wgmma_use(scores);
  phase ^= 1U;
  int32_t t = v.p.begin;
  for (; t + 2 < v.p.end; t += 2) {
    wide_left<kCluster, true, true>(v, t, phase, scores, state);
    phase ^= 1U;
  }
  if (t + 2 == v.p.end) {
    wide_left<kCluster, true, false>(v, t, phase, scores, state);
  } else {
    wide_left<kCluster, false, false>(v, t, phase, scores, state);
  }
}

// An odd count of blocks leaves the odd place out of the last pair: its phase does not turn.
template <int kCluster>
__device__ void wide_right_piece(const WideView<kCluster>& v, uint32_t& phase, WideState& state) {
  int32_t t = v.p.begin;
  for (; t + 2 < v.p.end; t += 2) {
    wide_right<kCluster, false>(v, t, phase, state);
    phase ^= 1U;
  }
  if (t + 2 == v.p.end) {
    wide_right<kCluster, true>(v, t, phase, state);
    phase ^= 1U;
  } else {
    wide_right_even(v, state);
    wide_wait<0>(state);
    v.free_group(0, 1);
  }
}

template <int kCluster>
__device__ void wide_compute(const MlaDecodeArgs& a, WideShared& s, int32_t group) {
  const int32_t number = static_cast<int32_t>(blockIdx.x) / a.tiles;
  const int32_t tile = static_cast<int32_t>(blockIdx.x) % a.tiles;
  uint32_t phase = 0;
  uint32_t pieces = 0;
  WideState state;
  for_each_piece(a, number, [&](const MlaPiece& piece) {
    wide_begin(a, piece, tile, state);
    const WidePiece p = wide_piece(a, piece);
    const WideView<kCluster> view(a, s, p);
    barrier_wait(&s.query_full, pieces & 1U);
    wide_load_rope(state, shared_address(s.queries + 8 * kTileBytes));
    if (group == 0) {
      wide_left_piece(view, phase, state);
    } else {
      wide_right_piece(view, phase, state);
    }
    if (threadIdx.x % 32 == 0) barrier_arrive(&s.query_free);
    wide_total<kTotals>(s.totals[pieces & 1U], state);
    if (group == 0) {
      wide_finish<0>(a, piece, tile, state, state.peak, state.total);
    } else {
      wide_finish<1>(a, piece, tile, state, state.peak, state.total);
    }
    ++pieces;
  });
}

__device__ inline void wide_init_barriers(WideShared& s, uint32_t writers, uint32_t readers) {
  for (int i = 0; i < 4; ++i) {
    barrier_init(&s.full[i / 2][i % 2], writers);
    barrier_init(&s.free[i / 2][i % 2], readers);
  }
  barrier_init(&s.query_full, 1);
  barrier_init(&s.query_free, 8);
  barrier_init_done();
}

template <int kCluster>
__global__ void __launch_bounds__(kWideThreads, 1)
    mla_wide_kernel(const __grid_constant__ CUtensorMap cache,
                    const __grid_constant__ CUtensorMap queries,
                    const __grid_constant__ MlaDecodeArgs a) {
  extern __shared__ uint8_t raw[];
  auto& s = *reinterpret_cast<WideShared*>(raw + (0U - shared_address(raw)) % 1024U);
  if (threadIdx.x == 0) wide_init_barriers(s, 1, 4 * kCluster);
  let_next_kernel_start();
  cluster_barrier<kCluster>();
  const int32_t group = same_in_warp(static_cast<int32_t>(threadIdx.x / 128));
  if (group < 2) {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    wide_compute<kCluster>(a, s, group);
  } else {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (threadIdx.x == 256) wide_copy<kCluster>(a, s, &cache, &queries);
  }
  cluster_barrier<kCluster>();  // the other block may still write here, or arrive
}

}  // namespace fathom::kernels
