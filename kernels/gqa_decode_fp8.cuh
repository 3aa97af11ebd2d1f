// The granule of grouped decode attention over a cache of e4m3 codes: two codes become f16 numbers,
// exactly, with one instruction; their scale is a factor of their token's score or weight. Queries
// and weights are f16 too, each multiplied by a power of two that puts the largest just under
// f16's end: of a bf16 query nothing is lost that is over 2^-29 of the head's largest, and a weight
// keeps 11 digits. See docs/kernels/gqa_decode.md.
#pragma once

#include <cuda_fp16.h>

#include "gqa_decode_tile.cuh"

namespace fathom::kernels {

// Bytes of a granule's codes: one row of kDims bytes a token, swizzled over the row's length.
template <int kDims>
inline constexpr uint32_t kGqaCodeBytes = kGqaGranuleTokens * kDims;

// Codes 0 and 1 of a word, and codes 2 and 3: taken apart in the assembler, they need no shift.
__device__ inline void codes_as_f16(uint32_t word, uint32_t& first, uint32_t& second) {
  asm("{\n.reg .b16 low, high;\n"
      "mov.b32 {low, high}, %2;\n"
      "cvt.rn.f16x2.e4m3x2 %0, low;\n"
      "cvt.rn.f16x2.e4m3x2 %1, high;\n}\n"
      : "=r"(first), "=r"(second)
      : "r"(word));
}

__device__ inline uint32_t pack_halves(float low, float high) {
  const __half2 pair = __floats2half2_rn(low, high);
  uint32_t bits;
  memcpy(&bits, &pair, sizeof bits);
  return bits;
}

__device__ inline void multiply_add_f16(float (&d)[4], const uint32_t (&a)[4],
                                        const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// 2 to the (biased) exponent.
__device__ inline float power_of_two(uint32_t exponent) { return __uint_as_float(exponent << 23); }

// Queries as f16, the largest of a head in [2^14, 2^15); t.unscale takes that back.
template <int kDims, int kGroups>
__device__ void scale_queries(GqaTile<kDims, kGroups>& t) {
  constexpr uint32_t kAll = 0xFFFFFFFFU;
  const uint32_t lane = threadIdx.x % 32;
#pragma unroll
  for (int n = 0; n < kGroups; ++n) {
    uint32_t pairs = 0;
#pragma unroll
    for (int k = 0; k < kDims / 16; ++k) {
#pragma unroll
      for (int i = 0; i < 2; ++i) pairs = __vmaxu2(pairs, t.query[n][k][i] & 0x7FFF7FFFU);
    }
    uint32_t most = max(pairs >> 16, pairs & 0xFFFFU);
    most = max(most, __shfl_xor_sync(kAll, most, 1));
    most = max(most, __shfl_xor_sync(kAll, most, 2));
    const uint32_t up = min(268U - (most >> 7), 254U);  // a bf16 number's exponent is at bit 7
    const float factor = power_of_two(up);
    const float back = power_of_two(254U - up);
#pragma unroll
    for (int i = 0; i < 2; ++i)
      t.unscale[n][i] = __shfl_sync(kAll, back, (lane % 4 * 2 + i) * 4);
#pragma unroll
    for (int k = 0; k < kDims / 16; ++k) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const uint32_t word = t.query[n][k][i];
        t.query[n][k][i] = pack_halves(__uint_as_float(word << 16) * factor,
                                       __uint_as_float(word & 0xFFFF0000U) * factor);
      }
    }
  }
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
                               const Fp8Scale* scales, float (&scores)[2][kGroups][4]) {
  const uint32_t lane = threadIdx.x % 32;
#pragma unroll
  for (uint32_t m = 0; m < 2; ++m) {
    float sums[2][kGroups][4];  // of every second product: two chains
#pragma unroll
    for (int n = 0; n < kGroups; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) sums[0][n][i] = sums[1][n][i] = 0.0F;
    }
#pragma unroll
    for (uint32_t k = 0; k < kDims / 32; ++k) {
      uint32_t words[4];  // tokens 0..7 and 8..15 of 16 dimensions, then of the next 16
      load_matrices(words, keys + code_at<kDims>(m * 16 + lane % 16, 2 * k + lane / 16));
#pragma unroll
      for (uint32_t part = 0; part < 2; ++part) {
        uint32_t key[4];
        codes_as_f16(words[2 * part], key[0], key[2]);
        codes_as_f16(words[2 * part + 1], key[1], key[3]);
#pragma unroll
        for (int n = 0; n < kGroups; ++n)
          multiply_add_f16(sums[part][n], key, t.query[n][2 * k + part]);
      }
    }
    const float first = __bfloat162float(scales[m * 16 + lane / 4]);
    const float second = __bfloat162float(scales[m * 16 + lane / 4 + 8]);
#pragma unroll
    for (int n = 0; n < kGroups; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i)
        scores[m][n][i] =
            (sums[0][n][i] + sums[1][n][i]) * ((i < 2 ? first : second) * t.unscale[n][i % 2]);
    }
  }
}

// Weights times their tokens' scales as f16, for the next product's right side. What takes back
// the power of two that they are multiplied by is returned: `seen` of the tokens count, whose
// largest scale it follows.
template <int kGroups>
__device__ float scale_weights(const float (&weights)[2][kGroups][4], const Fp8Scale* scales,
                               int32_t seen, uint32_t (&to)[2][kGroups][2]) {
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t mine = static_cast<int32_t>(lane) < seen ? __bfloat16_as_ushort(scales[lane]) : 0U;
  const uint32_t exponent = __reduce_max_sync(0xFFFFFFFFU, mine) >> 7;
  const uint32_t up = min(267U - exponent, 254U);  // scales become less than 2^14, weights are 1
  const float factor = power_of_two(up);
#pragma unroll
  for (uint32_t m = 0; m < 2; ++m) {
#pragma unroll
    for (uint32_t j = 0; j < 2; ++j) {
      const float scale = __bfloat162float(scales[m * 16 + lane / 4 + 8 * j]) * factor;
#pragma unroll
      for (int n = 0; n < kGroups; ++n) {
        const float first = weights[m][n][2 * j];
        const float second = weights[m][n][2 * j + 1];
        to[m][n][j] = turn_matrix(pack_halves(first == 0.0F ? 0.0F : first * scale,
                                              second == 0.0F ? 0.0F : second * scale));
      }
    }
  }
  return power_of_two(254U - up);
}

// Codes past a row's end may be NaNs: 0 times that must be 0.
template <int kDims>
__device__ void clear_codes(uint8_t* values, int32_t first) {
  constexpr int32_t kUnits = kDims / 16;
  const auto lane = static_cast<int32_t>(threadIdx.x % 32);
  for (int32_t i = first * kUnits + lane; i < kGqaGranuleTokens * kUnits; i += 32)
    *reinterpret_cast<uint4*>(values + i * 16) = uint4{0, 0, 0, 0};
  __syncwarp();
}

// sums = values transposed times weights. Of 16 dimensions a lane's rows are 2 (lane / 4) + {0, 1}.
template <int kDims, int kGroups>
__device__ void add_values_fp8(GqaTile<kDims, kGroups>& t, uint32_t values,
                               const uint32_t (&weights)[2][kGroups][2]) {
  const uint32_t lane = threadIdx.x % 32;
#pragma unroll
  for (uint32_t d = 0; d < kDims / 16; ++d) {
#pragma unroll
    for (int n = 0; n < kGroups; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) t.sums[d][n][i] = 0.0F;
    }
    uint32_t words[4];  // eight tokens each: codes (token, dimension) 0 0, 0 1, 1 0, 1 1
    load_matrices_across(words, values + code_at<kDims>(lane, d));
#pragma unroll
    for (uint32_t m = 0; m < 2; ++m) {
      uint32_t value[4];  // of tokens side by side
      codes_as_f16(__byte_perm(words[2 * m], 0, 0x3120), value[0], value[1]);
      codes_as_f16(__byte_perm(words[2 * m + 1], 0, 0x3120), value[2], value[3]);
#pragma unroll
      for (int n = 0; n < kGroups; ++n) multiply_add_f16(t.sums[d][n], value, weights[m][n]);
    }
  }
}

}  // namespace fathom::kernels
