// A warpgroup's share of the wide decode-attention kernel: 64 rows of (token, head) pairs, two a
// thread. Scores, softmax, weights through shared memory, products with half of the columns.
#pragma once

#include "mla_decode_common.cuh"
#include "mla_products.cuh"
#include "mla_wide_ring.cuh"

namespace fathom::kernels {

// How far scores may rise above the peak before the peak follows, base 2: sums are seldom brought
// to a new one. Weights stay below 2 to this, and their rounding does not depend on the peak.
inline constexpr float kWideSlack = 8.0F;

// A thread's two rows: 16 warp + lane / 4 and 8 more.
struct WideSums {
  float sums[128];  // [row, latent column of this warpgroup's half]
};

// Until products under way are complete but for kPending groups; the sums are among the complete.
template <int kPending>
__device__ void wide_wait(WideSums& state) {
  wgmma_wait<kPending>();
#pragma unroll
  for (int i = 0; i < 128; ++i) settle(state.sums[i]);
}

__device__ inline uint32_t wide_fragment(uint32_t tile, uint32_t step) {
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t row = threadIdx.x % 128 / 32 * 16 + lane % 16;
  return tile + row * 128 + ((step * 2 + lane / 16) ^ (row & 7U)) * 16;
}

__device__ inline void wide_load_fragment(uint32_t (&r)[4], uint32_t from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(from)
               : "memory");
}

__device__ inline void wide_store_weights(const uint32_t (&packed)[4][4], uint32_t tile) {
#pragma unroll
  for (uint32_t step = 0; step < 4; ++step) {
    const uint32_t(&p)[4] = packed[step];
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                     wide_fragment(tile, step)),
                 "r"(p[0]), "r"(p[1]), "r"(p[2]), "r"(p[3])
                 : "memory");
  }
}

// A descriptor's changing half: additions to an address are additions of a sixteenth to it, so that
// a product's operands cost an addition each.
__device__ inline uint32_t wide_place(uint32_t address) {
  return static_cast<uint32_t>(wgmma_tile(address));
}
__device__ inline uint64_t wide_tile(uint32_t place, uint32_t bytes) {
  constexpr uint64_t kHigh = uint64_t{1} << 62 | uint64_t{1024 >> 4} << 32;
  return kHigh | (place + (bytes >> 4));
}
__device__ inline uint64_t wide_tile_across(uint32_t place, uint32_t bytes) {
  constexpr uint32_t kNextColumns = (kTileBytes >> 4) - 1;  // in the place of wgmma_tile's 1
  return wide_tile(place + (kNextColumns << 16), bytes);
}

// Keeps the compiler from making a number's descendants once for all and spilling them.
__device__ inline uint32_t computed_here(uint32_t x) {
  asm volatile("" : "+r"(x));
  return x;
}

// Scores that a row does not see.
template <typename Rows>
__device__ void wide_hide(const MlaDecodeArgs& a, const Rows& state, float (&scores)[32],
                          int32_t first_token) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int32_t visible[2] = {state.visible(a, 0), state.visible(a, 1)};
#pragma unroll
  for (int i = 0; i < 32; ++i) {
    if (first_token + i / 4 * 8 + lane % 4 * 2 + i % 2 >= visible[i / 2 % 2]) scores[i] = -INFINITY;
  }
}

// The largest of a thread's scores, by row.
__device__ inline void wide_largest(const float (&scores)[32], float (&most)[2]) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float of[4];  // chains side by side: each link waits for the one before
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      of[k] = fmaxf(scores[k * 8 + r * 2], scores[k * 8 + r * 2 + 1]);
      of[k] = fmaxf(of[k], fmaxf(scores[k * 8 + r * 2 + 4], scores[k * 8 + r * 2 + 5]));
    }
    most[r] = fmaxf(fmaxf(of[0], of[1]), fmaxf(of[2], of[3]));
  }
}

// Whether a row's scores rise too far above its peak. Peaks are whole: a row's largest score,
// rounded up, is above by more than the slack where the score of one of its lanes is, so that lanes
// need not know the row's largest.
template <typename Rows>
__device__ bool wide_above(const MlaDecodeArgs& a, const Rows& state, const float (&most)[2]) {
  return __any_sync(0xFFFFFFFFU, most[0] * a.scale_log2 > state.peak[0] + kWideSlack ||
                                     most[1] * a.scale_log2 > state.peak[1] + kWideSlack) != 0;
}

// Peaks follow such scores. Returns whether sums of this warp must be brought to the new peak, by
// `fade`.
template <typename Rows>
__device__ bool wide_raise_peaks(const MlaDecodeArgs& a, Rows& state, const float (&most)[2],
                                 float (&fade)[2]) {
  bool rises = false;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float row_most = fmaxf(most[r], __shfl_xor_sync(0xFFFFFFFFU, most[r], 1));
    row_most = fmaxf(row_most, __shfl_xor_sync(0xFFFFFFFFU, row_most, 2));
    const float whole = ceilf(row_most * a.scale_log2);
    const float old = state.peak[r];
    const float peak = whole > old + kWideSlack ? whole : old;
    fade[r] = power_of_two(old - peak);
    rises = rises || (peak != old && old != -INFINITY);
    state.peak[r] = peak;
    state.total[r] *= fade[r];
  }
  return __any_sync(0xFFFFFFFFU, rises) != 0;
}

// Scores become weights relative to the peak.
template <typename Rows>
__device__ void wide_softmax(const MlaDecodeArgs& a, Rows& state, float (&scores)[32],
                             uint32_t (&packed)[4][4]) {
  float shift[2];
#pragma unroll
  for (int r = 0; r < 2; ++r)  // a row may see nothing of a piece
    shift[r] = state.peak[r] == -INFINITY ? 0.0F : -state.peak[r];
#pragma unroll
  for (int i = 0; i < 32; ++i) {
    scores[i] = exp2_fast(fmaf(scores[i], a.scale_log2, shift[i / 2 % 2]));
    state.total[i / 2 % 2] += scores[i];
  }
#pragma unroll
  for (int step = 0; step < 4; ++step) {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      packed[step][i] = pack_bf16(scores[step * 8 + i * 2], scores[step * 8 + i * 2 + 1]);
  }
}

// Sums of a warp, none of whose products is under way, go to another peak.
__device__ inline void wide_fade(WideSums& state, const float (&fade)[2]) {
#pragma unroll
  for (int i = 0; i < 128; ++i) {
    state.sums[i] *= fade[i / 2 % 2];
    settle(state.sums[i]);
  }
}

// sums += weights times this half's columns of a block.
template <uint32_t kHalf>
__device__ void wide_values(WideSums& state, uint32_t weights, uint32_t block) {
  wgmma_fence();
#pragma unroll
  for (uint32_t step = 0; step < 4; ++step)
    multiply_wide(state.sums, wide_tile(weights, step * 32),
                  wide_tile_across(block, kHalf * 4 * kTileBytes + step * 2048));
  wgmma_commit();
}

__device__ inline void wide_give(float (&to)[kWidePairs], const float (&values)[2]) {
  const uint32_t row = threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
  if (threadIdx.x % 4 == 0) {
    to[row] = values[0];
    to[row + 8] = values[1];
  }
}

__device__ inline void wide_get(const float (&from)[kWidePairs], float (&values)[2]) {
  const uint32_t row = threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
  values[0] = from[row];
  values[1] = from[row + 8];
}

__device__ inline void wide_sum_quads(float (&x)[2]) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    x[r] += __shfl_xor_sync(0xFFFFFFFFU, x[r], 1);
    x[r] += __shfl_xor_sync(0xFFFFFFFFU, x[r], 2);
  }
}

// Tells the compiler that all lanes have the same number: branches on it are the whole warp's, and
// the products' operands go through uniform registers.
__device__ inline int32_t same_in_warp(int32_t x) { return __shfl_sync(0xFFFFFFFFU, x, 0); }

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

// A row's partial sums.
template <uint32_t kHalf>
__device__ void wide_store_partial(const MlaDecodeArgs& a, const MlaPiece& piece, int32_t tile,
                                   const WideSums& state, const float (&peak)[2],
                                   const float (&total)[2]) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int inside = static_cast<int>(threadIdx.x % 128 / 32) * 16 + lane / 4;
  const int32_t pairs = a.rows.query[piece.row] * a.heads;
  const int32_t slot =
      piece.cut.first_slot + static_cast<int32_t>(blockIdx.x) / a.tiles - piece.cut.origin;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    if (tile * kWidePairs + inside + r * 8 >= pairs) continue;
    const int64_t row = (int64_t{slot} * a.tiles + tile) * kWidePairs + inside + r * 8;
    float* to = a.partial + row * kMlaLatent + kHalf * 256 + lane % 4 * 2;
#pragma unroll
    for (int j = 0; j < 32; ++j)
      *reinterpret_cast<float2*>(to + j * 8) =
          float2{state.sums[j * 4 + r * 2], state.sums[j * 4 + r * 2 + 1]};
    if (kHalf == 0 && lane % 4 == 0)
      *reinterpret_cast<float2*>(a.partial_weights + 2 * row) = float2{peak[r], total[r]};
  }
}

}  // namespace fathom::kernels
