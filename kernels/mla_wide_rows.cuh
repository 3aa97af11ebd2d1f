// A warpgroup's share of the wide decode-attention kernel: 64 rows of (token, head) pairs, two a
// thread. Scores, softmax, weights through shared memory, products with half of the columns.
#pragma once

#include "mla_decode_common.cuh"
#include "mla_products.cuh"

namespace fathom::kernels {

inline constexpr int kWidePairs = 64;

// A thread's two rows: 16 warp + lane / 4 and 8 more.
struct WideState {
  float sums[128];  // [row, latent column of this warpgroup's half]
  float peak[2];    // largest score, base 2, rounded up to a whole number
  float total[2];   // of weights
  int32_t visible[2];
};

// Scores of tiles [first, last) of a block.
__device__ inline void wide_scores(uint32_t block, uint32_t queries, float (&scores)[32],
                                   uint32_t first, uint32_t last, bool fresh) {
#pragma unroll
  for (uint32_t step = first * 4; step < last * 4; ++step) {
    const uint32_t at = step / 4 * kTileBytes + step % 4 * 32;
    Wgmma<Format::kBF16, 64>::run(scores, wgmma_tile(queries + at), wgmma_tile(block + at),
                                  fresh && step == first * 4 ? 0 : 1);
  }
}

// Scores become weights relative to the new peak; the rows' sums of them join the totals.
__device__ inline void wide_softmax(const MlaDecodeArgs& a, WideState& state, float (&scores)[32],
                                    int32_t first_token, bool edge, float (&fade)[2],
                                    float (&sums)[2], uint32_t (&packed)[4][4]) {
  const int lane = static_cast<int>(threadIdx.x % 32);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float most = -INFINITY;
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      float& score = scores[i / 2 * 4 + r * 2 + i % 2];
      if (edge && first_token + i / 2 * 8 + lane % 4 * 2 + i % 2 >= state.visible[r])
        score = -INFINITY;
      most = fmaxf(most, score);
    }
    most = fmaxf(most, __shfl_xor_sync(0xFFFFFFFFU, most, 1));
    most = fmaxf(most, __shfl_xor_sync(0xFFFFFFFFU, most, 2));
    const float peak = fmaxf(state.peak[r], ceilf(most * a.scale_log2));
    const float shift = peak == -INFINITY ? 0.0F : peak;  // a row may see nothing of a piece
    fade[r] = power_of_two(state.peak[r] - peak);
    state.peak[r] = peak;
    float sum = 0.0F;
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      float& score = scores[i / 2 * 4 + r * 2 + i % 2];
      score = exp2_fast(fmaf(score, a.scale_log2, -shift));
      sum += score;
    }
    sum += __shfl_xor_sync(0xFFFFFFFFU, sum, 1);
    sum += __shfl_xor_sync(0xFFFFFFFFU, sum, 2);
    sums[r] = sum;
    state.total[r] = state.total[r] * fade[r] + sum;
  }
#pragma unroll
  for (int step = 0; step < 4; ++step) {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      packed[step][i] = pack_bf16(scores[step * 8 + i * 2], scores[step * 8 + i * 2 + 1]);
  }
}

__device__ inline void wide_store_weights(const uint32_t (&packed)[4][4], uint32_t to) {
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t row = threadIdx.x % 128 / 32 * 16 + lane % 16;
#pragma unroll
  for (uint32_t step = 0; step < 4; ++step) {
    const uint32_t unit = (step * 2 + lane / 16) ^ (row & 7U);
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                     to + row * 128 + unit * 16),
                 "r"(packed[step][0]), "r"(packed[step][1]), "r"(packed[step][2]),
                 "r"(packed[step][3])
                 : "memory");
  }
}

__device__ inline void wide_fade(WideState& state, const float (&fade)[2]) {
#pragma unroll
  for (int i = 0; i < 128; ++i) {
    state.sums[i] *= fade[i / 2 % 2];
    settle(state.sums[i]);
  }
}

// Until products under way are complete but for kPending groups; the sums are among the complete.
template <int kPending>
__device__ void wide_wait(WideState& state) {
  wgmma_wait<kPending>();
#pragma unroll
  for (int i = 0; i < 128; ++i) settle(state.sums[i]);
}

// sums += weights (of registers) times this half's columns of a block.
__device__ inline void wide_values(WideState& state, const uint32_t (&packed)[4][4],
                                   uint32_t half) {
  wgmma_fence();
#pragma unroll
  for (int step = 0; step < 4; ++step)
    multiply_wide(state.sums, packed[step], wgmma_tile_across(half + step * 2048));
  wgmma_commit();
}

// The same with weights of shared memory.
__device__ inline void wide_values(WideState& state, uint32_t weights, uint32_t half) {
  wgmma_fence();
#pragma unroll
  for (int step = 0; step < 4; ++step)
    multiply_wide(state.sums, wgmma_tile(weights + step * 32),
                  wgmma_tile_across(half + step * 2048));
  wgmma_commit();
}

__device__ inline void wide_begin(const MlaDecodeArgs& a, const MlaPiece& piece, int32_t tile,
                                  WideState& state) {
  const int32_t row = static_cast<int32_t>(threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    state.visible[r] = a.rows.context[piece.row] + (tile * kWidePairs + row + r * 8) / a.heads + 1;
    state.peak[r] = -INFINITY;
    state.total[r] = 0.0F;
  }
#pragma unroll
  for (int i = 0; i < 128; ++i) state.sums[i] = 0.0F;
}

// What one warpgroup tells the other of a block.
struct WidePeaks {
  float peak[kWidePairs];
  float sum[kWidePairs];  // of weights
};

// Moves to the other warpgroup's peaks and sums; says what earlier ones are worth.
__device__ inline void wide_take_peaks(const WidePeaks& peaks, WideState& state, float (&fade)[2]) {
  const uint32_t row = threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float peak = peaks.peak[row + r * 8];
    fade[r] = power_of_two(state.peak[r] - peak);
    state.peak[r] = peak;
    state.total[r] = state.total[r] * fade[r] + peaks.sum[row + r * 8];
  }
}

__device__ inline void wide_give_peaks(WidePeaks& peaks, const WideState& state,
                                       const float (&sums)[2]) {
  const uint32_t row = threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
  if (threadIdx.x % 4 == 0) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      peaks.peak[row + r * 8] = state.peak[r];
      peaks.sum[row + r * 8] = sums[r];
    }
  }
}

}  // namespace fathom::kernels
