// A warpgroup's 64 rows of results to where the op wants them: float32, bf16, or e4m3 with a scale
// a head.
#pragma once

#include <cuda_fp8.h>

#include "prefill_rows.cuh"
#include "quantize.cuh"

namespace fathom::kernels {

// 64 columns a tile, of the thread's row `r` of two; `to` is the row's first column of this head.
template <int kTiles>
__device__ void prefill_store_bf16(const float (&x)[kTiles * 32], int r, float factor,
                                   __nv_bfloat16* to, bool stored) {
  const int lane = static_cast<int>(threadIdx.x % 4);
#pragma unroll
  for (int four = 0; four < kTiles * 2; ++four) {
    uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int at = (four * 4 + i) * 4 + r * 2;
      words[i] = pack_pair(x[at] * factor, x[at + 1] * factor);
    }
    transpose_four(words);
    if (stored)
      *reinterpret_cast<uint4*>(to + four * 32 + lane * 8) =
          uint4{words[0], words[1], words[2], words[3]};
  }
}

// As docs/numerics.md quantizes an activation: of the values rounded to bf16. Rounded in twos and
// divided without calls: conversions of one number and divisions have a slow unit to themselves.
__device__ inline void prefill_store_fp8(const float (&x)[64], int r, float factor, uint8_t* to,
                                         float* scale_to, bool ue8m0, bool stored) {
  const int lane = static_cast<int>(threadIdx.x % 4);
  uint32_t pairs[16];
  float largest = 1e-4F;
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    pairs[i] = pack_pair(x[i * 4 + r * 2] * factor, x[i * 4 + r * 2 + 1] * factor);
    const float2 two = bf16_values(pairs[i]);
    largest = fmaxf(largest, fmaxf(fabsf(two.x), fabsf(two.y)));
  }
  largest = fmaxf(largest, __shfl_xor_sync(0xFFFFFFFFU, largest, 1));
  largest = fmaxf(largest, __shfl_xor_sync(0xFFFFFFFFU, largest, 2));
  const float scale = scale_of(largest, ue8m0);
  const float inverse = inverse_of(scale);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    uint32_t words[4];  // codes of columns 16 j + 2 lane and 8 further, j = 4 half + i
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      uint32_t codes[2];
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        const float2 two = bf16_values(pairs[half * 8 + i * 2 + k]);
        codes[k] = __nv_cvt_float2_to_fp8x2(
            {quotient(two.x, scale, inverse), quotient(two.y, scale, inverse)}, __NV_SATFINITE,
            __NV_E4M3);
      }
      words[i] = codes[0] | codes[1] << 16;
    }
    transpose_four(words);
    if (stored) {
      *reinterpret_cast<uint4*>(to + (half * 4 + lane) * 16) = {
          __byte_perm(words[0], words[1], 0x5410), __byte_perm(words[2], words[3], 0x5410),
          __byte_perm(words[0], words[1], 0x7632), __byte_perm(words[2], words[3], 0x7632)};
    }
  }
  if (stored && lane == 0) *scale_to = scale;
}

// `factor` of a row of padding is of no account: zeros are stored.
template <int kTiles>
__device__ void prefill_store(const PrefillArgs& a, const PrefillWork& w, int32_t head,
                              float (&x)[kTiles * 32], const float (&factor)[2]) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int32_t inside = static_cast<int32_t>(threadIdx.x) / 32 * 16 + lane / 4;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int32_t i = w.first_query + inside + r * 8;
    const bool stored = i < w.bound;
    float by = factor[r];
    if (i >= w.query) {
      by = 0.0F;
#pragma unroll
      for (int j = 0; j < kTiles * 16; ++j) x[j / 2 * 4 + r * 2 + j % 2] = 0.0F;
    }
    const int64_t token = w.token + i;
    const int64_t at = token * a.out.stride + int64_t{head} * (kTiles * 64);
    if (a.out.format == Format::kBF16) {
      prefill_store_bf16<kTiles>(x, r, by, static_cast<__nv_bfloat16*>(a.out.data) + at, stored);
    } else if (a.out.format == Format::kFp8) {
      if constexpr (kTiles == 2)
        prefill_store_fp8(x, r, by, static_cast<uint8_t*>(a.out.data) + at,
                          a.out.scales + token * a.out.scale_stride + head, a.out.ue8m0, stored);
    } else if (stored) {
      float* to = static_cast<float*>(a.out.data) + at + lane % 4 * 2;
#pragma unroll
      for (int j = 0; j < kTiles * 8; ++j)
        *reinterpret_cast<float2*>(to + j * 8) =
            float2{x[j * 4 + r * 2] * by, x[j * 4 + r * 2 + 1] * by};
    }
  }
}

}  // namespace fathom::kernels
