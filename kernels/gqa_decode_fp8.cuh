// The granule of grouped decode attention over a cache of e4m3 codes: each code becomes a bf16
// number in registers, its scale a factor of its token's score or weight.
//
// A code's bits moved to their places in a bf16 are its value times 2^-120. Scores take 2^120 back
// in float32. Weights are multiplied by 2^100 before their product, so that no sum falls below
// float32's normal numbers, and the sums by 2^20 after it.
#pragma once

#include "gqa_decode_tile.cuh"

namespace fathom::kernels {

inline constexpr uint32_t kGqaScaleBytes = kGqaGranuleTokens * 4;

// Bytes of a granule's codes: one row of kDims bytes a token, swizzled over the row's length.
template <int kDims>
inline constexpr uint32_t kGqaCodeBytes = kGqaGranuleTokens * kDims;

// Codes 0 and 1, or 2 and 3, of a word as bf16 times 2^-120.
template <uint32_t kSelect>
__device__ uint32_t spread_codes(uint32_t word) {
  const uint32_t high = __byte_perm(word, 0, kSelect);  // each code in the upper byte of its half
  return (high & 0x80008000U) | ((high & 0x7F007F00U) >> 4);
}

// 16-byte unit `unit` of a token's row.
template <int kDims>
__device__ uint32_t code_at(uint32_t token, uint32_t unit) {
  const uint32_t mask = kDims == 128 ? token & 7U : token >> 1 & 3U;
  return token * kDims + ((unit ^ mask) * 16);
}

// Queries as the permuted products want them: of 16 dimensions a lane has four neighbours.
template <int kDims, int kGroups>
__device__ void add_scores_fp8(const GqaTile<kDims, kGroups>& t, uint32_t keys,
                               const float* scales, float (&scores)[2][kGroups][4]) {
  const uint32_t lane = threadIdx.x % 32;
#pragma unroll
  for (uint32_t m = 0; m < 2; ++m) {
#pragma unroll
    for (int n = 0; n < kGroups; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) scores[m][n][i] = 0.0F;
    }
#pragma unroll
    for (uint32_t k = 0; k < kDims / 32; ++k) {
      uint32_t words[4];  // tokens 0..7 and 8..15 of 16 dimensions, then of the next 16
      load_matrices(words, keys + code_at<kDims>(m * 16 + lane % 16, 2 * k + lane / 16));
#pragma unroll
      for (uint32_t part = 0; part < 2; ++part) {
        const uint32_t low = words[2 * part];
        const uint32_t high = words[2 * part + 1];
        const uint32_t key[4] = {spread_codes<0x1404>(low), spread_codes<0x1404>(high),
                                 spread_codes<0x3424>(low), spread_codes<0x3424>(high)};
#pragma unroll
        for (int n = 0; n < kGroups; ++n) multiply_add(scores[m][n], key, t.query[n][2 * k + part]);
      }
    }
    const float first = scales[m * 16 + lane / 4];
    const float second = scales[m * 16 + lane / 4 + 8];
#pragma unroll
    for (int n = 0; n < kGroups; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) scores[m][n][i] *= 0x1p120F * (i < 2 ? first : second);
    }
  }
}

// Weights times their tokens' scales; tokens past a row's end have weight 0 and any scale.
template <int kGroups>
__device__ void scale_weights(float (&weights)[2][kGroups][4], const float* scales) {
  const uint32_t lane = threadIdx.x % 32;
#pragma unroll
  for (uint32_t m = 0; m < 2; ++m) {
#pragma unroll
    for (uint32_t j = 0; j < 2; ++j) {
      const float scale = scales[m * 16 + lane / 4 + 8 * j] * 0x1p100F;
#pragma unroll
      for (int n = 0; n < kGroups; ++n) {
#pragma unroll
        for (uint32_t i = 2 * j; i < 2 * j + 2; ++i)
          weights[m][n][i] = weights[m][n][i] == 0.0F ? 0.0F : weights[m][n][i] * scale;
      }
    }
  }
}

// sums = values transposed times weights. Of 16 dimensions a lane's rows are 2 (lane / 4) + {0, 1}.
template <int kDims, int kGroups>
__device__ void add_values_fp8(GqaTile<kDims, kGroups>& t, uint32_t values,
                               const SplitWeights (&weights)[2][kGroups]) {
  const uint32_t lane = threadIdx.x % 32;
#pragma unroll
  for (uint32_t d = 0; d < kDims / 16; ++d) {
#pragma unroll
    for (int n = 0; n < kGroups; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) t.sums[d][n][i] = 0.0F;
    }
    uint32_t words[4];  // eight tokens each
    load_matrices_across(words, values + code_at<kDims>(lane, d));
#pragma unroll
    for (uint32_t m = 0; m < 2; ++m) {
      const uint32_t low = words[2 * m];
      const uint32_t high = words[2 * m + 1];
      const uint32_t value[4] = {spread_codes<0x2404>(low), spread_codes<0x3414>(low),
                                 spread_codes<0x2404>(high), spread_codes<0x3414>(high)};
#pragma unroll
      for (int n = 0; n < kGroups; ++n) {
        multiply_add(t.sums[d][n], value, weights[m][n].low);
        multiply_add(t.sums[d][n], value, weights[m][n].high);
      }
    }
#pragma unroll
    for (int n = 0; n < kGroups; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) t.sums[d][n][i] *= 0x1p20F;
    }
  }
}

}  // namespace fathom::kernels
