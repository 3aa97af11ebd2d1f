// Decode attention for up to 32 (token, head) pairs a sequence, bound by the bytes of the cache:
// scores and outputs are held transposed, so that cached tokens (scores) and latent columns
// (outputs) are the 64 rows of the tensor cores' products and pairs their columns; no work is spent
// on heads that do not exist. A warpgroup computes 16 pairs, one thread copies; see
// docs/kernels/mla_decode.md.
#pragma once

#include "mla_decode_common.cuh"
#include "mla_products.cuh"

namespace fathom::kernels {

inline constexpr int kNarrowPairs = 16;  // of a warpgroup
inline constexpr uint32_t kBlockBytes = 9 * kTileBytes;

// Warpgroups that compute, and a thread that copies: in a warp of its own, or in a warpgroup when
// registers move from there to those that compute.
template <int kGroups>
inline constexpr int kNarrowThreads = kGroups == 1 ? 160 : 128 * kGroups + 128;

template <int kGroups>
struct NarrowShared {
  static constexpr uint32_t kStages = 2;
  static constexpr uint32_t kQueryTile = kGroups * kNarrowPairs * 128;
  static constexpr uint32_t kQueryBytes = 9 * kQueryTile;

  alignas(1024) uint8_t blocks[kStages][kBlockBytes];
  alignas(1024) uint8_t queries[2][kQueryBytes];
  alignas(1024) uint8_t weights[kGroups][kNarrowPairs * 128];  // bf16 [pairs, 64 tokens], swizzled
  float exchange[kGroups][2][4][kNarrowPairs];
  uint64_t block_full[kStages];
  uint64_t block_free[kStages];
  uint64_t query_full[2];
  uint64_t query_free[2];
};

// What a thread knows of its pairs: columns 8 j + 2 (lane % 4) + {0, 1}. Weights are relative to
// whole powers of two: bringing sums to another one changes no bit of them.
struct NarrowState {
  float sums[8][8];  // outputs transposed: [latent column, pair]
  float peak[4];     // largest score, base 2, rounded up to a whole number
  float total[4];    // of weights, of this thread's tokens
  int32_t visible[4];
};

// Which of a block's warpgroups this is, and what is its own.
struct NarrowGroup {
  int number = 0;
  int lane = 0;
  int warp = 0;            // inside of the warpgroup
  int32_t first_pair = 0;  // of a sequence
  uint32_t weights = 0;
  float (*exchange)[4][kNarrowPairs] = nullptr;  // two places, used in turn

  __device__ int32_t pair(int i) const { return i / 2 * 8 + lane % 4 * 2 + i % 2; }
  __device__ void barrier() const {
    asm volatile("bar.sync %0, 128;" ::"r"(number + 1) : "memory");
  }
};

template <int kGroups>
__device__ void narrow_copy(const MlaDecodeArgs& a, NarrowShared<kGroups>& s,
                            const CUtensorMap* cache, const CUtensorMap* queries) {
  const int32_t number = static_cast<int32_t>(blockIdx.x) / a.tiles;
  const int32_t tile = static_cast<int32_t>(blockIdx.x) % a.tiles;
  const uint64_t policy = a.tiles == 1 ? kEvictFirst : kEvictNormal;
  RingPlace<NarrowShared<kGroups>::kStages> stage;
  RingPlace<2> query;
  EarlierKernels earlier;
  for_each_piece(a, number, [&](const MlaPiece& piece) {
    const auto copy_row_queries = [&] {
      earlier.wait();
      barrier_wait(&s.query_free[query.index], query.phase ^ 1U);
      barrier_expect(&s.query_full[query.index], NarrowShared<kGroups>::kQueryBytes);
      copy_queries(s.queries[query.index], queries, &s.query_full[query.index],
                   piece.of.first * a.heads + tile * kGroups * kNarrowPairs);
      query.advance();
    };
    const int32_t* table = a.rows.block_table + piece.of.slot * a.rows.table_stride;
    const int32_t ask = earlier.queries_at(piece, NarrowShared<kGroups>::kStages);
    int32_t block = table[piece.begin];
    for (int32_t t = piece.begin; t < piece.end; ++t) {
      const int32_t next = t + 1 < piece.end ? table[t + 1] : 0;
      if (t == ask) copy_row_queries();
      barrier_wait(&s.block_free[stage.index], stage.phase ^ 1U);
      barrier_expect(&s.block_full[stage.index], kBlockBytes);
      copy_block(s.blocks[stage.index], cache, &s.block_full[stage.index], block, policy);
      stage.advance();
      block = next;
    }
    if (ask == piece.end) copy_row_queries();
  });
  earlier.wait();
}

// Scores transposed, [64 tokens, pairs].
template <int kGroups>
__device__ void narrow_scores(uint32_t block, uint32_t query, float (&scores)[8]) {
  constexpr uint32_t kQueryTile = NarrowShared<kGroups>::kQueryTile;
  wgmma_fence();
#pragma unroll
  for (uint32_t step = 0; step < 36; ++step) {
    const uint32_t tile = step / 4;
    const uint32_t inside = step % 4 * 32;
    Wgmma<Format::kBF16, kNarrowPairs>::run(scores, wgmma_tile(block + tile * kTileBytes + inside),
                                            wgmma_tile(query + tile * kQueryTile + inside),
                                            step == 0 ? 0 : 1);
  }
  wgmma_commit();
  wgmma_wait<0>();
}

// Scales scores, hides tokens that a pair does not see, and moves the peaks. Returns by `fade` what
// earlier sums are worth.
__device__ inline void narrow_peaks(const MlaDecodeArgs& a, const NarrowGroup& g,
                                    NarrowState& state, float (&scores)[8], int32_t first_token,
                                    bool edge, float (*exchange)[kNarrowPairs], float (&fade)[4]) {
  const int32_t token = first_token + g.warp * 16 + g.lane / 4;
  float most[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int at = i / 2 * 4 + i % 2;
    scores[at] *= a.scale_log2;
    scores[at + 2] *= a.scale_log2;
    if (edge) {
      if (token >= state.visible[i]) scores[at] = -INFINITY;
      if (token + 8 >= state.visible[i]) scores[at + 2] = -INFINITY;
    }
    most[i] = fmaxf(scores[at], scores[at + 2]);
#pragma unroll
    for (int offset = 4; offset < 32; offset *= 2)
      most[i] = fmaxf(most[i], __shfl_xor_sync(0xFFFFFFFFU, most[i], offset));
  }
  if (g.lane < 4) {
#pragma unroll
    for (int i = 0; i < 4; ++i) exchange[g.warp][g.pair(i)] = most[i];
  }
  g.barrier();
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int pair = g.pair(i);
    const float here = fmaxf(fmaxf(exchange[0][pair], exchange[1][pair]),
                             fmaxf(exchange[2][pair], exchange[3][pair]));
    const float peak = fmaxf(state.peak[i], ceilf(here));
    // A piece may begin past all that a pair of a verify row sees: its weights are zero.
    fade[i] = power_of_two(state.peak[i] - peak);
    state.peak[i] = peak;
  }
}

// Weights to shared memory, transposed on the way: bf16 [pairs, 64 tokens].
__device__ inline void narrow_weights(const NarrowGroup& g, NarrowState& state,
                                      const float (&scores)[8], const float (&fade)[4]) {
  float w[8];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int at = i / 2 * 4 + i % 2;
    const float peak = state.peak[i] == -INFINITY ? 0.0F : state.peak[i];
    w[at] = exp2_fast(scores[at] - peak);
    w[at + 2] = exp2_fast(scores[at + 2] - peak);
    state.total[i] = state.total[i] * fade[i] + (w[at] + w[at + 2]);
  }
  const auto pair = static_cast<uint32_t>(g.lane / 16 * 8 + g.lane % 8);
  const uint32_t unit = static_cast<uint32_t>(g.warp * 2 + g.lane / 8 % 2) ^ (pair & 7U);
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                   g.weights + pair * 128 + unit * 16),
               "r"(pack_bf16(w[0], w[1])), "r"(pack_bf16(w[2], w[3])), "r"(pack_bf16(w[4], w[5])),
               "r"(pack_bf16(w[6], w[7]))
               : "memory");
}

// Tokens past a row's end may hold anything that an earlier sequence left: 0 times that must be 0.
__device__ inline void clear_tokens(uint8_t* block, int32_t first) {
  for (int i = first * 8 + static_cast<int>(threadIdx.x); i < 64 * 8; i += 128) {
#pragma unroll
    for (int tile = 0; tile < 8; ++tile)
      *reinterpret_cast<uint4*>(block + tile * kTileBytes + i * 16) = uint4{0, 0, 0, 0};
  }
}

// sums += latents transposed times weights.
__device__ inline void narrow_values(NarrowState& state, const float (&fade)[4], uint32_t block,
                                     uint32_t weights) {
#pragma unroll
  for (int tile = 0; tile < 8; ++tile) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      state.sums[tile][i] *= fade[i / 4 * 2 + i % 2];
      settle(state.sums[tile][i]);
    }
  }
  wgmma_fence();
#pragma unroll
  for (int tile = 0; tile < 8; ++tile) {
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      multiply_across<kNarrowPairs>(state.sums[tile],
                                    wgmma_tile_across(block + tile * kTileBytes + step * 2048),
                                    wgmma_tile(weights + step * 32));
    }
  }
  wgmma_commit();
  wgmma_wait<0>();
}

__device__ inline void narrow_clear(NarrowState& state) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    state.peak[i] = -INFINITY;
    state.total[i] = 0.0F;
  }
#pragma unroll
  for (int t = 0; t < 8; ++t) {
#pragma unroll
    for (int i = 0; i < 8; ++i) state.sums[t][i] = 0.0F;
  }
}

// Weights' sums of all threads.
__device__ inline void narrow_total(const NarrowGroup& g, NarrowState& state,
                                    float (*exchange)[kNarrowPairs]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int offset = 4; offset < 32; offset *= 2)
      state.total[i] += __shfl_xor_sync(0xFFFFFFFFU, state.total[i], offset);
    if (g.lane < 4) exchange[g.warp][g.pair(i)] = state.total[i];
  }
  g.barrier();
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int pair = g.pair(i);
    state.total[i] =
        (exchange[0][pair] + exchange[1][pair]) + (exchange[2][pair] + exchange[3][pair]);
  }
}

// to += from, two stretches or more of one row: exact but for the additions.
__device__ inline void narrow_add(NarrowState& to, const NarrowState& from) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float peak = fmaxf(to.peak[i], from.peak[i]);
    const float before = power_of_two(to.peak[i] - peak);
    const float now = power_of_two(from.peak[i] - peak);
    to.total[i] = fmaf(from.total[i], now, to.total[i] * before);
    to.peak[i] = peak;
    const int at = i / 2 * 4 + i % 2;
#pragma unroll
    for (int t = 0; t < 8; ++t) {
      to.sums[t][at] = fmaf(from.sums[t][at], now, to.sums[t][at] * before);
      to.sums[t][at + 2] = fmaf(from.sums[t][at + 2], now, to.sums[t][at + 2] * before);
    }
  }
}

// A row's output.
__device__ inline void narrow_store(const MlaDecodeArgs& a, const NarrowGroup& g, int32_t row,
                                    const NarrowState& state) {
  const int32_t pairs = a.rows.query[row] * a.heads;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int32_t pair = g.first_pair + g.pair(i);
    if (pair >= pairs) continue;
    const float inverse = state.total[i] > 0.0F ? 1.0F / state.total[i] : 0.0F;
    const int at = i / 2 * 4 + i % 2;
    __nv_bfloat16* to = a.out + (int64_t{a.rows.first[row]} * a.heads + pair) * kMlaLatent +
                        g.warp * 16 + g.lane / 4;
#pragma unroll
    for (int t = 0; t < 8; ++t) {
      to[t * 64] = __float2bfloat16_rn(state.sums[t][at] * inverse);
      to[t * 64 + 8] = __float2bfloat16_rn(state.sums[t][at + 2] * inverse);
    }
  }
}

// A partial result of a row.
__device__ inline void narrow_store_partial(const MlaDecodeArgs& a, const NarrowGroup& g,
                                            int32_t row, int32_t slot, int32_t tile_pairs,
                                            const NarrowState& state) {
  const int32_t pairs = a.rows.query[row] * a.heads;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int32_t pair = g.first_pair + g.pair(i);
    if (pair >= pairs) continue;
    const int64_t at_row = int64_t{slot} * a.tiles * tile_pairs + pair;
    const int at = i / 2 * 4 + i % 2;
    float* to = a.partial + at_row * kMlaLatent + g.warp * 16 + g.lane / 4;
#pragma unroll
    for (int t = 0; t < 8; ++t) {
      to[t * 64] = state.sums[t][at];
      to[t * 64 + 8] = state.sums[t][at + 2];
    }
    if (g.warp == 0 && g.lane < 4) {
      a.partial_weights[2 * at_row] = state.peak[i];
      a.partial_weights[2 * at_row + 1] = state.total[i];
    }
  }
}

// A stretch of a piece ends at `block`. In a piece that begins its row stretches are added up, in
// their order; else each is a partial result of its own, and the merge adds them in that order.
template <int kGroups>
__device__ void narrow_end_stretch(const MlaDecodeArgs& a, const NarrowGroup& g,
                                   const MlaPiece& piece, int32_t block, NarrowState& before,
                                   NarrowState& state) {
  constexpr int32_t kTilePairs = kGroups * kNarrowPairs;
  if (piece.begin > 0) {
    const int32_t slot = piece.cut.first_slot + mla_stretch_number(block) - piece.cut.origin;
    narrow_store_partial(a, g, piece.row, slot, kTilePairs, state);
  } else {
    narrow_add(before, state);
    if (block + 1 == piece.end) {
      if (piece.whole) {
        narrow_store(a, g, piece.row, before);
      } else {
        narrow_store_partial(a, g, piece.row, piece.cut.first_slot, kTilePairs, before);
      }
    }
  }
  narrow_clear(state);
}

template <int kGroups>
__device__ NarrowGroup narrow_group(const MlaDecodeArgs& a, NarrowShared<kGroups>& s) {
  NarrowGroup g;
  g.number = static_cast<int>(threadIdx.x / 128);
  g.lane = static_cast<int>(threadIdx.x % 32);
  g.warp = static_cast<int>(threadIdx.x % 128 / 32);
  g.first_pair = (static_cast<int32_t>(blockIdx.x) % a.tiles * kGroups + g.number) * kNarrowPairs;
  g.weights = shared_address(s.weights[g.number]);
  g.exchange = s.exchange[g.number];
  return g;
}

// Before a block's values are read: its tokens past the row's end are nothing, weights are there.
template <int kGroups>
__device__ void narrow_settle_block(const NarrowGroup& g, uint8_t* block, int32_t first_token,
                                    int32_t seen) {
  const bool unclean = first_token + kMlaBlockTokens > seen;
  if (unclean && g.number == 0) clear_tokens(block, seen - first_token);
  fence_for_async();
  if (kGroups > 1 && unclean) {
    named_barrier<kGroups + 1, 128 * kGroups>();
  } else {
    g.barrier();
  }
}

template <int kGroups>
__device__ void narrow_compute(const MlaDecodeArgs& a, NarrowShared<kGroups>& s) {
  const NarrowGroup g = narrow_group<kGroups>(a, s);
  RingPlace<NarrowShared<kGroups>::kStages> stage;
  RingPlace<2> query;
  int buffer = 0;
  NarrowState state;
  NarrowState before;
  narrow_clear(state);
  for_each_piece(a, static_cast<int32_t>(blockIdx.x) / a.tiles, [&](const MlaPiece& piece) {
    const int32_t seen_by_all = piece.of.context + 1;
    const int32_t seen = seen_by_all + piece.of.query - 1;
#pragma unroll
    for (int i = 0; i < 4; ++i)
      state.visible[i] = seen_by_all + (g.first_pair + g.pair(i)) / a.heads;
    narrow_clear(before);
    barrier_wait(&s.query_full[query.index], query.phase);
    const uint32_t queries =
        shared_address(s.queries[query.index]) + static_cast<uint32_t>(g.number) * 2048;
    for (int32_t t = piece.begin; t < piece.end; ++t) {
      const int32_t first_token = t * kMlaBlockTokens;
      const uint32_t block = shared_address(s.blocks[stage.index]);
      float scores[8];
      float fade[4];
      barrier_wait(&s.block_full[stage.index], stage.phase);
      narrow_scores<kGroups>(block, queries, scores);
      narrow_peaks(a, g, state, scores, first_token, first_token + kMlaBlockTokens > seen_by_all,
                   g.exchange[buffer], fade);
      narrow_weights(g, state, scores, fade);
      narrow_settle_block<kGroups>(g, s.blocks[stage.index], first_token, seen);
      narrow_values(state, fade, block, g.weights);
      if (g.lane == 0) barrier_arrive(&s.block_free[stage.index]);
      stage.advance();
      buffer ^= 1;
      if (t + 1 == piece.end || t + 1 == mla_cut_after(t)) {
        narrow_total(g, state, g.exchange[buffer]);
        buffer ^= 1;
        narrow_end_stretch<kGroups>(a, g, piece, t, before, state);
      }
    }
    if (g.lane == 0) barrier_arrive(&s.query_free[query.index]);
    query.advance();
  });
}

template <int kGroups>
__global__ void __launch_bounds__(kNarrowThreads<kGroups>, 1)
    mla_narrow_kernel(const __grid_constant__ CUtensorMap cache,
                      const __grid_constant__ CUtensorMap queries,
                      const __grid_constant__ MlaDecodeArgs a) {
  extern __shared__ uint8_t raw[];
  auto& s = *reinterpret_cast<NarrowShared<kGroups>*>(raw + (0U - shared_address(raw)) % 1024U);
  if (threadIdx.x == 0) {
    for (uint32_t i = 0; i < 2; ++i) {
      barrier_init(&s.block_full[i], 1);
      barrier_init(&s.block_free[i], 4 * kGroups);
      barrier_init(&s.query_full[i], 1);
      barrier_init(&s.query_free[i], 4 * kGroups);
    }
    barrier_init_done();
  }
  let_next_kernel_start();
  __syncthreads();
  if (threadIdx.x < 128 * kGroups) {
    if constexpr (kGroups > 1) asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
    narrow_compute<kGroups>(a, s);
  } else {
    if constexpr (kGroups > 1) asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
    if (threadIdx.x == 128 * kGroups) narrow_copy<kGroups>(a, s, &cache, &queries);
  }
}

}  // namespace fathom::kernels
