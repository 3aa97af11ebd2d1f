// Decode attention for up to 32 (token, head) pairs a sequence, bound by the bytes of the cache:
// scores and outputs are held transposed, so that cached tokens (scores) and latent columns
// (outputs) are the 64 rows of the tensor cores' products and pairs their columns; no work is spent
// on heads that do not exist. One warpgroup computes, one thread copies; see
// docs/kernels/mla_decode.md.
#pragma once

#include "mla_decode_common.cuh"
#include "mla_products.cuh"

namespace fathom::kernels {

inline constexpr int kNarrowThreads = 160;  // a warpgroup that computes, and a warp that copies
inline constexpr uint32_t kBlockBytes = 9 * kTileBytes;

template <int kPairs>
struct NarrowShared {
  static constexpr uint32_t kStages = 2;
  static constexpr uint32_t kQueryTile = kPairs * 128;
  static constexpr uint32_t kQueryBytes = 9 * kQueryTile;

  alignas(1024) uint8_t blocks[kStages][kBlockBytes];
  alignas(1024) uint8_t queries[2][kQueryBytes];
  alignas(1024) uint8_t weights[kQueryTile];  // bf16 [pairs, 64 tokens], swizzled
  float exchange[2][4][kPairs];
  uint64_t block_full[kStages];
  uint64_t block_free[kStages];
  uint64_t query_full[2];
  uint64_t query_free[2];
};

// What a thread knows of its pairs: columns 8 j + 2 (lane % 4) + {0, 1}.
template <int kPairs>
struct NarrowState {
  float sums[8][kPairs / 2];  // outputs transposed: [latent column, pair]
  float peak[kPairs / 4];     // largest score, base 2
  float total[kPairs / 4];    // of weights, of this thread's tokens
  int32_t visible[kPairs / 4];
};

template <int kPairs>
__device__ void narrow_copy(const MlaDecodeArgs& a, NarrowShared<kPairs>& s,
                            const CUtensorMap* cache, const CUtensorMap* queries) {
  const int32_t number = static_cast<int32_t>(blockIdx.x) / a.tiles;
  const int32_t tile = static_cast<int32_t>(blockIdx.x) % a.tiles;
  const uint64_t policy = a.tiles == 1 ? kEvictFirst : kEvictNormal;
  RingPlace stage;
  RingPlace query;
  for_each_piece(a, number, [&](const MlaPiece& piece) {
    barrier_wait(&s.query_free[query.index], query.phase ^ 1U);
    barrier_expect(&s.query_full[query.index], NarrowShared<kPairs>::kQueryBytes);
    copy_queries(s.queries[query.index], queries, &s.query_full[query.index],
                 a.rows.first[piece.row] * a.heads + tile * kPairs);
    query.advance(2);
    const int32_t* table = a.rows.block_table + a.rows.slot[piece.row] * a.rows.table_stride;
    int32_t block = table[piece.begin];
    for (int32_t t = piece.begin; t < piece.end; ++t) {
      const int32_t next = t + 1 < piece.end ? table[t + 1] : 0;
      barrier_wait(&s.block_free[stage.index], stage.phase ^ 1U);
      barrier_expect(&s.block_full[stage.index], kBlockBytes);
      copy_block(s.blocks[stage.index], cache, &s.block_full[stage.index], block, policy);
      stage.advance(NarrowShared<kPairs>::kStages);
      block = next;
    }
  });
}

// Scores transposed, [64 tokens, pairs].
template <int kPairs>
__device__ void narrow_scores(uint32_t block, uint32_t query, float (&scores)[kPairs / 2]) {
  wgmma_fence();
#pragma unroll
  for (uint32_t step = 0; step < 36; ++step) {
    const uint32_t tile = step / 4;
    const uint32_t inside = step % 4 * 32;
    Wgmma<Format::kBF16, kPairs>::run(scores, wgmma_tile(block + tile * kTileBytes + inside),
                                      wgmma_tile(query + tile * kPairs * 128 + inside),
                                      step == 0 ? 0 : 1);
  }
  wgmma_commit();
  wgmma_wait<0>();
}

// Scales scores, hides tokens that a pair does not see, and moves the peaks. Returns by `fade` what
// earlier sums are worth.
template <int kPairs>
__device__ void narrow_peaks(const MlaDecodeArgs& a, NarrowState<kPairs>& state,
                             float (&scores)[kPairs / 2], int32_t first_token, bool edge,
                             float (*exchange)[kPairs], float (&fade)[kPairs / 4]) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int warp = static_cast<int>(threadIdx.x / 32);
  const int32_t token = first_token + warp * 16 + lane / 4;
  float most[kPairs / 4];
#pragma unroll
  for (int i = 0; i < kPairs / 4; ++i) {
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
  if (lane < 4) {
#pragma unroll
    for (int i = 0; i < kPairs / 4; ++i) exchange[warp][i / 2 * 8 + lane * 2 + i % 2] = most[i];
  }
  named_barrier<1, 128>();
#pragma unroll
  for (int i = 0; i < kPairs / 4; ++i) {
    const int pair = i / 2 * 8 + lane % 4 * 2 + i % 2;
    const float here = fmaxf(fmaxf(exchange[0][pair], exchange[1][pair]),
                             fmaxf(exchange[2][pair], exchange[3][pair]));
    const float peak = fmaxf(state.peak[i], here);
    // A piece may begin past all that a pair of a verify row sees: its weights are zero.
    fade[i] = exp2_fast(state.peak[i] - (peak == -INFINITY ? 0.0F : peak));
    state.peak[i] = peak;
  }
}

// Weights to shared memory, transposed on the way: bf16 [pairs, 64 tokens].
template <int kPairs>
__device__ void narrow_weights(NarrowState<kPairs>& state, const float (&scores)[kPairs / 2],
                               const float (&fade)[kPairs / 4], uint32_t weights) {
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t warp = threadIdx.x / 32;
  float w[kPairs / 2];
#pragma unroll
  for (int i = 0; i < kPairs / 4; ++i) {
    const int at = i / 2 * 4 + i % 2;
    const float peak = state.peak[i] == -INFINITY ? 0.0F : state.peak[i];
    w[at] = exp2_fast(scores[at] - peak);
    w[at + 2] = exp2_fast(scores[at + 2] - peak);
    state.total[i] = state.total[i] * fade[i] + (w[at] + w[at + 2]);
  }
#pragma unroll
  for (uint32_t g = 0; g < kPairs / 16; ++g) {
    const uint32_t pair = g * 16 + lane / 16 * 8 + lane % 8;
    const uint32_t unit = (warp * 2 + lane / 8 % 2) ^ (pair & 7U);
    const float* from = w + g * 8;
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                     weights + pair * 128 + unit * 16),
                 "r"(pack_bf16(from[0], from[1])), "r"(pack_bf16(from[2], from[3])),
                 "r"(pack_bf16(from[4], from[5])), "r"(pack_bf16(from[6], from[7]))
                 : "memory");
  }
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
template <int kPairs>
__device__ void narrow_values(NarrowState<kPairs>& state, const float (&fade)[kPairs / 4],
                              uint32_t block, uint32_t weights) {
#pragma unroll
  for (int tile = 0; tile < 8; ++tile) {
#pragma unroll
    for (int i = 0; i < kPairs / 2; ++i) {
      state.sums[tile][i] *= fade[i / 4 * 2 + i % 2];
      settle(state.sums[tile][i]);
    }
  }
  wgmma_fence();
#pragma unroll
  for (int tile = 0; tile < 8; ++tile) {
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      multiply_across<kPairs>(state.sums[tile],
                              wgmma_tile_across(block + tile * kTileBytes + step * 2048),
                              wgmma_tile(weights + step * 32));
    }
  }
  wgmma_commit();
  wgmma_wait<0>();
}

template <int kPairs>
__device__ void narrow_begin(const MlaDecodeArgs& a, const MlaPiece& piece, int32_t tile,
                             NarrowState<kPairs>& state) {
  const int lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
  for (int i = 0; i < kPairs / 4; ++i) {
    const int32_t pair = tile * kPairs + i / 2 * 8 + lane % 4 * 2 + i % 2;
    state.visible[i] = a.rows.context[piece.row] + pair / a.heads + 1;
    state.peak[i] = -INFINITY;
    state.total[i] = 0.0F;
  }
#pragma unroll
  for (int t = 0; t < 8; ++t) {
#pragma unroll
    for (int i = 0; i < kPairs / 2; ++i) state.sums[t][i] = 0.0F;
  }
}

// The whole row's output, or a partial one with the logarithm of its weights' sum.
template <int kPairs>
__device__ void narrow_finish(const MlaDecodeArgs& a, const MlaPiece& piece, int32_t tile,
                              NarrowState<kPairs>& state, float (*exchange)[kPairs]) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int warp = static_cast<int>(threadIdx.x / 32);
  const int32_t pairs = a.rows.query[piece.row] * a.heads;
  named_barrier<1, 128>();
#pragma unroll
  for (int i = 0; i < kPairs / 4; ++i) {
#pragma unroll
    for (int offset = 4; offset < 32; offset *= 2)
      state.total[i] += __shfl_xor_sync(0xFFFFFFFFU, state.total[i], offset);
    if (lane < 4) exchange[warp][i / 2 * 8 + lane * 2 + i % 2] = state.total[i];
  }
  named_barrier<1, 128>();
#pragma unroll
  for (int i = 0; i < kPairs / 4; ++i) {
    const int inside = i / 2 * 8 + lane % 4 * 2 + i % 2;
    const int32_t pair = tile * kPairs + inside;
    if (pair >= pairs) continue;
    const float total =
        (exchange[0][inside] + exchange[1][inside]) + (exchange[2][inside] + exchange[3][inside]);
    const float inverse = total > 0.0F ? 1.0F / total : 0.0F;
    const int at = i / 2 * 4 + i % 2;
    const int column = warp * 16 + lane / 4;
    if (piece.whole) {
      __nv_bfloat16* to =
          a.out + (int64_t{a.rows.first[piece.row]} * a.heads + pair) * kMlaLatent + column;
#pragma unroll
      for (int t = 0; t < 8; ++t) {
        to[t * 64] = __float2bfloat16_rn(state.sums[t][at] * inverse);
        to[t * 64 + 8] = __float2bfloat16_rn(state.sums[t][at + 2] * inverse);
      }
    } else {
      const int64_t row = (int64_t{piece.slot} * a.tiles + tile) * kPairs + inside;
      float* to = a.partial + row * kMlaLatent + column;
#pragma unroll
      for (int t = 0; t < 8; ++t) {
        to[t * 64] = state.sums[t][at] * inverse;
        to[t * 64 + 8] = state.sums[t][at + 2] * inverse;
      }
      if (warp == 0 && lane < 4) a.partial_logsumexp[row] = state.peak[i] + log2f(total);
    }
  }
}

template <int kPairs>
__device__ void narrow_compute(const MlaDecodeArgs& a, NarrowShared<kPairs>& s) {
  const int32_t number = static_cast<int32_t>(blockIdx.x) / a.tiles;
  const int32_t tile = static_cast<int32_t>(blockIdx.x) % a.tiles;
  const uint32_t weights = shared_address(s.weights);
  RingPlace stage;
  RingPlace query;
  int buffer = 0;
  NarrowState<kPairs> state;
  for_each_piece(a, number, [&](const MlaPiece& piece) {
    narrow_begin(a, piece, tile, state);
    const int32_t seen_by_all = a.rows.context[piece.row] + 1;
    const int32_t seen = seen_by_all + a.rows.query[piece.row] - 1;
    barrier_wait(&s.query_full[query.index], query.phase);
    for (int32_t t = piece.begin; t < piece.end; ++t) {
      const int32_t first_token = t * kMlaBlockTokens;
      const uint32_t block = shared_address(s.blocks[stage.index]);
      float scores[kPairs / 2];
      float fade[kPairs / 4];
      barrier_wait(&s.block_full[stage.index], stage.phase);
      narrow_scores<kPairs>(block, shared_address(s.queries[query.index]), scores);
      narrow_peaks<kPairs>(a, state, scores, first_token,
                           first_token + kMlaBlockTokens > seen_by_all, s.exchange[buffer], fade);
      narrow_weights<kPairs>(state, scores, fade, weights);
      if (first_token + kMlaBlockTokens > seen)
        clear_tokens(s.blocks[stage.index], seen - first_token);
      fence_for_async();
      named_barrier<1, 128>();
      narrow_values<kPairs>(state, fade, block, weights);
      if (threadIdx.x % 32 == 0) barrier_arrive(&s.block_free[stage.index]);
      stage.advance(NarrowShared<kPairs>::kStages);
      buffer ^= 1;
    }
    if (threadIdx.x % 32 == 0) barrier_arrive(&s.query_free[query.index]);
    query.advance(2);
    narrow_finish<kPairs>(a, piece, tile, state, s.exchange[buffer]);
    buffer ^= 1;
  });
}

template <int kPairs>
__global__ void __launch_bounds__(kNarrowThreads, 1)
    mla_narrow_kernel(const __grid_constant__ CUtensorMap cache,
                      const __grid_constant__ CUtensorMap queries,
                      const __grid_constant__ MlaDecodeArgs a) {
  extern __shared__ uint8_t raw[];
  auto& s = *reinterpret_cast<NarrowShared<kPairs>*>(raw + (0U - shared_address(raw)) % 1024U);
  if (threadIdx.x == 0) {
    for (uint32_t i = 0; i < 2; ++i) {
      barrier_init(&s.block_full[i], 1);
      barrier_init(&s.block_free[i], 4);
      barrier_init(&s.query_full[i], 1);
      barrier_init(&s.query_free[i], 4);
    }
    barrier_init_done();
  }
  let_next_kernel_start();
  __syncthreads();
  wait_for_earlier_kernels();
  if (threadIdx.x < 128) {
    narrow_compute<kPairs>(a, s);
  } else if (threadIdx.x == 128) {
    narrow_copy<kPairs>(a, s, &cache, &queries);
  }
}

}  // namespace fathom::kernels
