// Decode attention for tiles of 64 (token, head) pairs, bound by the tensor cores as much as by
// the cache's bytes. One warpgroup keeps the queries in registers and makes scores and weights; two
// sum one half of the output's columns each, and a thread of each copies that half of the blocks
// into a ring of three. The products of a block with its values run under the softmax of the next
// one (see docs/kernels/mla_decode.md).
#pragma once

#include "cluster.cuh"
#include "mla_wide_ring.cuh"
#include "mla_wide_rows.cuh"

namespace fathom::kernels {

inline constexpr int kWideThreads = 384;    // scores, left sums, right sums
inline constexpr uint32_t kWideSteps = 31;  // of 16 columns, in registers

// The scores' warpgroup between blocks: queries [step of 16 columns][fragment], and its rows.
struct WideScores {
  uint32_t queries[kWideSteps][4];
  float peak[2];
  float total[2];
  const WideWalk* walk;

  __device__ int32_t visible(const MlaDecodeArgs& a, int r) const {
    const auto row = static_cast<int32_t>(threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4);
    const int32_t tile = static_cast<int32_t>(blockIdx.x) % a.tiles;
    return walk->seen_by_all + (tile * kWidePairs + row + r * 8) / a.heads;
  }
};

template <int kCluster>
__device__ void wide_free(WideShared& s, uint32_t slot, int half) {
  barrier_arrive_of_warp<true>(&s.free[slot][half]);
  if constexpr (kCluster > 1) {
    __syncwarp();
    if (threadIdx.x % 32 == 0) barrier_arrive_at(&s.free[slot][half], cluster_rank() ^ 1U);
  }
}

enum WideBarrier : int { kWideScoring = 1, kWideLeft, kWideRight };  // of a warpgroup

// Queries from their slot to where products read them.
template <int kCluster>
__device__ void wide_take_queries(WideShared& s, const WidePlace& place, WideScores& state) {
  const uint8_t* slot = s.slots[place.index];
  barrier_wait(&s.full[place.index][0], place.phase);
  barrier_wait(&s.full[place.index][1], place.phase);
  const uint32_t from = shared_address(slot);
#pragma unroll
  for (uint32_t i = 0; i < kWideSteps; ++i)
    wide_load_fragment(state.queries[i], wide_fragment(from + i / 4 * kTileBytes, i % 4));
  const uint32_t thread = threadIdx.x % 128;
#pragma unroll
  for (uint32_t i = 0; i < 4; ++i) {
    const uint32_t at = (i * 128 + thread) * 16;
    *reinterpret_cast<uint4*>(s.rope + at) =
        *reinterpret_cast<const uint4*>(slot + 8 * kTileBytes + at);
  }
  const uint32_t row = thread / 2;
  *reinterpret_cast<uint4*>(s.last_step + (row / 8 * 2 + thread % 2) * 128 + row % 8 * 16) =
      *reinterpret_cast<const uint4*>(slot + 7 * kTileBytes + row * 128 +
                                      ((6 + thread % 2) ^ (row % 8)) * 16);
  fence_for_async();
  named_barrier<kWideScoring, 128>();
  wide_free<kCluster>(s, place.index, 0);
  wide_free<kCluster>(s, place.index, 1);
}

// The queries' last 16 latent columns as a product's left side: no swizzle.
__device__ inline uint64_t wide_last_step(const WideShared& s) {
  constexpr uint64_t kNextColumns = uint64_t{128 >> 4} << 16;
  constexpr uint64_t kNextRows = uint64_t{256 >> 4} << 32;
  return kNextRows | kNextColumns | ((shared_address(s.last_step) & 0x3FFFFU) >> 4);
}

// Makes what this thread wrote to the slot known to the products that read it.
__device__ inline void wide_tell_weights(WideShared& s, uint32_t slot) {
  fence_for_async();
  barrier_arrive_of_warp<true>(&s.weights[slot]);
}

// A block's scores, whose first half is there; under way after it.
__device__ inline void wide_scores(WideShared& s, const WidePlace& place, const WideScores& state,
                                   float (&scores)[32]) {
  const uint32_t block = computed_here(wide_place(shared_address(s.slots[place.index])));
  const uint32_t rope = computed_here(wide_place(shared_address(s.rope)));
  const auto keys = [&](uint32_t i) { return wide_tile(block, i / 4 * kTileBytes + i % 4 * 32); };
  wgmma_fence();
  multiply_scores_fresh(scores, state.queries[0], keys(0));
#pragma unroll
  for (uint32_t i = 1; i < 16; ++i) multiply_scores(scores, state.queries[i], keys(i));
  barrier_wait(&s.full[place.index][1], place.phase);
  wgmma_fence();
#pragma unroll
  for (uint32_t i = 16; i < kWideSteps; ++i) multiply_scores(scores, state.queries[i], keys(i));
  Wgmma<Format::kBF16, 64>::run(scores, wide_last_step(s), keys(kWideSteps), 1);
#pragma unroll
  for (uint32_t i = 0; i < 4; ++i)
    Wgmma<Format::kBF16, 64>::run(scores, wide_tile(rope, i * 32), keys(32 + i), 1);
  wgmma_commit();
}

// Powers of two, of which the least stands for 0 too.
__device__ inline void wide_give_fades(int8_t (&to)[kWidePairs], const float (&fade)[2]) {
  const uint32_t row = threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
  if (threadIdx.x % 4 == 0) {
    to[row] = static_cast<int8_t>((__float_as_int(fade[0]) >> 23) - 127);
    to[row + 8] = static_cast<int8_t>((__float_as_int(fade[1]) >> 23) - 127);
  }
}

__device__ inline void wide_get_fades(const int8_t (&from)[kWidePairs], float (&fade)[2]) {
  const uint32_t row = threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
  fade[0] = __int_as_float((from[row] + 127) << 23);
  fade[1] = __int_as_float((from[row + 8] + 127) << 23);
}

// What is told of a block before its scores are there.
struct WideBlock {
  int32_t t;
  bool last;    // of its piece
  bool edge;    // has tokens that not every row sees
  bool unused;  // has places behind the last token

  __device__ WideBlock(const WideWalk& walk, int32_t number)
      : t(number),
        last(number + 1 == walk.end),
        edge((number + 1) * kMlaBlockTokens > walk.seen_by_all),
        unused((number + 1) * kMlaBlockTokens > walk.seen) {}
};

// Scores become weights, in the place of the rope's keys, and what earlier sums are worth is told.
// Returns whether the block that is next in the ring was there already.
__device__ inline bool wide_weigh(const MlaDecodeArgs& a, WideShared& s, const WideBlock& block,
                                  const WidePlace& place, WideScores& state, float (&scores)[32]) {
  const uint32_t slot = place.index;
  if (block.edge) wide_hide(a, state, scores, block.t * kMlaBlockTokens);
  float most[2];
  wide_largest(scores, most);
  bool rises = false;
  if (wide_above(a, state, most)) {
    float fade[2];
    rises = wide_raise_peaks(a, state, most, fade);
    if (rises) wide_give_fades(s.fades[slot], fade);
  }
  uint32_t packed[4][4];
  wide_softmax(a, state, scores, packed);
  named_barrier<kWideScoring, 128>();  // all have read the rope's keys
  WidePlace next = place;
  next.advance();
  const bool there = barrier_over(&s.full[next.index][0], next.phase);
  wide_store_weights(packed, shared_address(s.slots[slot] + 8 * kTileBytes));
  if (threadIdx.x % 32 == 0) s.rises[slot][threadIdx.x % 128 / 32] = rises ? 1 : 0;
  if (block.unused)
    wide_clear_tokens<kWideScoring>(s.slots[slot], s.scored.seen - block.t * kMlaBlockTokens);
  return there;
}

// Weights of a block are told behind the scores of the next one, so that their products run under
// the next softmax and not beside the next scores; at once where the next block is not there yet.
template <int kCluster>
__device__ void wide_score_piece(const MlaDecodeArgs& a, WideShared& s, WidePlace& place,
                                 WideScores& state) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    state.peak[r] = -INFINITY;
    state.total[r] = 0.0F;
  }
  wide_take_queries<kCluster>(s, place, state);
  wide_tell_weights(s, place.index);  // none: the slot's turn passes
  const auto before = [&] { return place.index == 0 ? kWideSlots - 1 : place.index - 1; };
  float scores[32];
  bool told = true;
  bool there = false;
  bool last = false;
  for (int32_t t = s.scored.begin; !last; ++t) {
    place.advance();
    if (!there && !barrier_over(&s.full[place.index][0], place.phase)) {
      if (!told) wide_tell_weights(s, before());
      told = true;
      barrier_wait(&s.full[place.index][0], place.phase);
    }
    wide_scores(s, place, state, scores);
    if (!told) wide_tell_weights(s, before());
    const WideBlock block(s.scored, t);
    wgmma_wait<0>();
    wgmma_use(scores);
    there = wide_weigh(a, s, block, place, state, scores);
    told = false;
    last = block.last;
  }
  wide_tell_weights(s, place.index);
  place.advance();
}

template <int kCluster>
__device__ void wide_score(const MlaDecodeArgs& a, WideShared& s) {
  WidePlace place;
  WideScores state;
  state.walk = &s.scored;
  uint32_t results = 1;
  while (s.scored.end != 0) {
    barrier_wait(&s.result_free, results);
    results ^= 1U;
    wide_score_piece<kCluster>(a, s, place, state);
    wide_sum_quads(state.total);
    wide_give(s.result.peaks, state.peak);
    wide_give(s.result.totals, state.total);
    barrier_arrive_of_warp<true>(&s.result_full);
    named_barrier<kWideScoring, 128>();
    if (threadIdx.x % 128 == 0) wide_next_piece(a, s.scored, s.scored.row);
    named_barrier<kWideScoring, 128>();
  }
}

// sums += a block's weights times its values, one half of their columns.
template <int kHalf>
__device__ void wide_sum_block(WideShared& s, const WidePlace& place, WideSums& state) {
  const uint32_t block = computed_here(wide_place(shared_address(s.slots[place.index])));
  barrier_wait(&s.weights[place.index], place.phase);
  if (same_in_warp(static_cast<int32_t>(s.rises[place.index][threadIdx.x % 128 / 32])) != 0) {
    float fade[2];
    wide_get_fades(s.fades[place.index], fade);
    wide_fade(state, fade);
  }
  wide_values<kHalf>(state, block + (8 * kTileBytes >> 4), block);
  wide_wait<0>(state);
}

// A whole row's outputs: through this half of the last block's slot, whose values nobody reads any
// more, so that a warp stores 512 bytes of a row at once.
template <int kHalf>
__device__ void wide_store(const MlaDecodeArgs& a, WideShared& s, uint32_t slot,
                           const WideSums& state, const float (&total)[2]) {
  const float inverse[2] = {total[0] > 0.0F ? 1.0F / total[0] : 0.0F,
                            total[1] > 0.0F ? 1.0F / total[1] : 0.0F};
  const uint32_t to = shared_address(s.slots[slot] + kHalf * 4 * kTileBytes);
  named_barrier<kHalf == 0 ? kWideLeft : kWideRight, 128>();  // all have read the values
#pragma unroll
  for (uint32_t set = 0; set < 4; ++set) {
    uint32_t packed[4][4];
#pragma unroll
    for (uint32_t i = 0; i < 16; ++i) {
      const uint32_t at = set * 32 + i * 2;
      packed[i / 4][i % 4] =
          pack_bf16(state.sums[at] * inverse[i % 2], state.sums[at + 1] * inverse[i % 2]);
    }
    wide_store_weights(packed, to + set * kTileBytes);
  }
  fence_for_async();  // before the stores to memory: it waits for all that its thread stored
  __syncwarp();
  const uint32_t lane = threadIdx.x % 32;
  const int32_t row = static_cast<int32_t>(threadIdx.x % 128 / 32) * 16;
  const WideWalk& walk = s.summed[kHalf];
  const int32_t first = static_cast<int32_t>(blockIdx.x) % a.tiles * kWidePairs + row;
  const int32_t rows = min((walk.seen - walk.seen_by_all + 1) * a.heads - first, 16);
  __nv_bfloat16* out =
      a.out + (int64_t{walk.first} * a.heads + first) * kMlaLatent + kHalf * 256 + lane * 8;
#pragma unroll 4
  for (int32_t r = 0; r < rows; ++r) {
    const uint8_t* from = s.slots[slot] + (kHalf * 4 + lane / 8) * kTileBytes + (row + r) * 128 +
                          ((lane % 8) ^ (static_cast<uint32_t>(r) & 7U)) * 16;
    *reinterpret_cast<uint4*>(out + r * kMlaLatent) = *reinterpret_cast<const uint4*>(from);
  }
}

// Partial sums of a row that several parts have.
template <int kHalf>
__device__ void wide_store_partial(const MlaDecodeArgs& a, WideShared& s, const WideSums& state,
                                   const float (&peak)[2], const float (&total)[2]) {
  const WideWalk& walk = s.summed[kHalf];
  MlaPiece piece;
  piece.row = walk.row;
  piece.cut = a.schedule.cuts[walk.row];
  wide_store_partial<kHalf>(a, piece, static_cast<int32_t>(blockIdx.x) % a.tiles, state, peak,
                            total);
}

template <int kHalf>
__device__ void wide_finish(const MlaDecodeArgs& a, WideShared& s, uint32_t slot, uint32_t results,
                            const WideSums& state) {
  barrier_wait(&s.result_full, results);
  float peak[2];
  float total[2];
  wide_get(s.result.peaks, peak);
  wide_get(s.result.totals, total);
  barrier_arrive_of_warp<true>(&s.result_free);
  const WideWalk& walk = s.summed[kHalf];
  if (walk.whole) {
    wide_store<kHalf>(a, s, slot, state, total);
  } else {
    wide_store_partial<kHalf>(a, s, state, peak, total);
  }
}

template <int kCluster, int kHalf>
__device__ void wide_sum(const MlaDecodeArgs& a, WideShared& s, const CUtensorMap* cache,
                         const CUtensorMap* query_map) {
  constexpr int kBarrier = kHalf == 0 ? kWideLeft : kWideRight;
  WidePlace place;
  uint32_t results = 0;
  WideSums state;
  WideWalk& walk = s.summed[kHalf];
  const bool first = threadIdx.x % 128 == 0;
  if (first) wide_copy_first<kCluster, kHalf>(a, s, cache, query_map);
  __syncwarp();
  while (walk.end != 0) {
#pragma unroll
    for (int i = 0; i < 128; ++i) state.sums[i] = 0.0F;
    barrier_wait(&s.weights[place.index], place.phase);  // the queries' turn: none
    place.advance();
    if (first) wide_copy_next<kCluster, kHalf>(a, s, cache, query_map);
    __syncwarp();
    for (int32_t t = walk.begin; t < walk.end; ++t) {
      wide_sum_block<kHalf>(s, place, state);
      if (t + 1 == walk.end) wide_finish<kHalf>(a, s, place.index, results, state);
      wide_free<kCluster>(s, place.index, kHalf);
      place.advance();
      if (first) wide_copy_next<kCluster, kHalf>(a, s, cache, query_map);
      __syncwarp();
    }
    results ^= 1U;
    named_barrier<kBarrier, 128>();
    if (first) wide_next_piece(a, walk, walk.row);
    __syncwarp();
    named_barrier<kBarrier, 128>();
  }
  if (first) wide_wait_for_all<kHalf>(s);
}

template <int kCluster>
__global__ void __launch_bounds__(kWideThreads, 1)
    mla_wide_kernel(const __grid_constant__ CUtensorMap cache,
                    const __grid_constant__ CUtensorMap queries,
                    const __grid_constant__ MlaDecodeArgs a) {
  extern __shared__ __align__(1024) uint8_t wide_memory[];
  auto& s = *reinterpret_cast<WideShared*>(wide_memory);
  if (threadIdx.x == 0) wide_init<kCluster>(s);
  if (threadIdx.x == 160) {
    prefetch_map(&cache);
    prefetch_map(&queries);
  }
  let_next_kernel_start();
  if (threadIdx.x == 64) wide_first_piece(a, s.scored);
  if (threadIdx.x == 128 || threadIdx.x == 256) {
    const uint32_t half = threadIdx.x / 128 - 1;
    wide_first_piece(a, s.summed[half]);
    s.copied[half] = s.summed[half];
  }
  __syncthreads();
  if constexpr (kCluster > 1) {
    cluster_arrive_relaxed();
    cluster_wait();
  }
  const int32_t group = same_in_warp(static_cast<int32_t>(threadIdx.x / 128));
  if (group == 0) {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 184;");
    wide_score<kCluster>(a, s);
  } else if (group == 1) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 160;");
    wide_sum<kCluster, 0>(a, s, &cache, &queries);
  } else {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 160;");
    wide_sum<kCluster, 1>(a, s, &cache, &queries);
  }
}

}  // namespace fathom::kernels
