// What one warp does: scores of 32 cached tokens and their weighted values, for a tile of pairs.
// Both products are turned, so that tokens (scores) and dimensions (values) are the 16 rows of a
// tensor-core product and pairs its columns: 8 pairs waste nothing (PTX ISA, mma.sync.m16n8k16).
#pragma once

#include <cuda_bf16.h>

#include "gqa_decode_work.cuh"
#include "number.cuh"

namespace fathom::kernels {

// A stage is 32 tokens' keys or values of one head: tiles of 64 columns, 128 bytes a token, under
// the 128-byte swizzle.
template <int kDims>
inline constexpr uint32_t kGqaStageBytes = kGqaGranuleTokens * kDims * 2;
inline constexpr uint32_t kGqaTileBytes = kGqaGranuleTokens * 128;

__device__ inline void load_matrices(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

__device__ inline void load_matrices_across(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

__device__ inline uint32_t turn_matrix(uint32_t x) {
  uint32_t y;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
  return y;
}

__device__ inline void multiply_add(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// What a lane knows of its pairs: in group n of eight, pairs 8 n + 2 (lane % 4) + {0, 1}.
template <int kDims, int kGroups>
struct GqaTile {
  uint32_t query[kGroups][kDims / 16][2];  // of pair 8 n + lane / 4
  float unscale[kGroups][2];               // e4m3 cache: what a pair's scores are multiplied by
  int32_t visible[kGroups][2];             // tokens that a pair sees; 0: no pair
  float sums[kDims / 16][kGroups][4];      // values transposed: [dimension, pair]
  float peak[kGroups][2];                  // largest score, base 2
  float total[kGroups][2];                 // of weights
};

// Queries of a stream; pairs that do not exist see nothing. kFp8: of 16 dimensions a lane has four
// neighbours, as the codes of a word are.
template <bool kFp8, int kDims, int kGroups>
__device__ void load_queries(const GqaDecodeArgs& a, const GqaRun& run,
                             GqaTile<kDims, kGroups>& t) {
  const auto lane = static_cast<int32_t>(threadIdx.x % 32);
  const int32_t first_pair = run.stream % a.tiles * 8 * kGroups;
  const int32_t first_head = run.stream / a.tiles * a.group;
  const int32_t pairs = a.rows.query[run.row] * a.group;
  const int32_t context = a.rows.context[run.row];
  const int64_t first = a.rows.first[run.row];
#pragma unroll
  for (int n = 0; n < kGroups; ++n) {
    const int32_t pair = first_pair + 8 * n + lane / 4;
    const __nv_bfloat16* from =
        a.queries + ((first + pair / a.group) * a.heads + first_head + pair % a.group) * kDims +
        lane % 4 * (kFp8 ? 4 : 2);
#pragma unroll
    for (int k = 0; k < kDims / 16; ++k) {
#pragma unroll
      for (int i = 0; i < 2; ++i)
        t.query[n][k][i] =
            pair < pairs ? *reinterpret_cast<const uint32_t*>(from + 16 * k + (kFp8 ? 2 : 8) * i)
                         : 0U;
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int32_t column = first_pair + 8 * n + lane % 4 * 2 + i;
      t.visible[n][i] = column < pairs ? context + column / a.group + 1 : 0;
    }
  }
}

// scores[m][n]: of tokens 16 m + lane / 4 (+ 8) and the lane's pairs.
template <int kDims, int kGroups>
__device__ void add_scores(const GqaTile<kDims, kGroups>& t, uint32_t keys,
                           float (&scores)[2][kGroups][4]) {
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t token = lane % 16;
#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (int n = 0; n < kGroups; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) scores[m][n][i] = 0.0F;
    }
  }
#pragma unroll
  for (uint32_t k = 0; k < kDims / 16; ++k) {
    const uint32_t unit = (k % 4 * 2 + lane / 16) ^ (lane & 7U);
#pragma unroll
    for (uint32_t m = 0; m < 2; ++m) {
      uint32_t key[4];
      load_matrices(key, keys + k / 4 * kGqaTileBytes + (m * 16 + token) * 128 + unit * 16);
#pragma unroll
      for (int n = 0; n < kGroups; ++n) multiply_add(scores[m][n], key, t.query[n][k]);
    }
  }
}

// A weight as the sum of two bf16 numbers: half of its float32 digits would be lost with one.
struct SplitWeights {
  uint32_t high[2];
  uint32_t low[2];
};

// Two neighbours' weights of one token, split, as a product's right side has them: turned.
__device__ inline void split(float first, float second, uint32_t& high, uint32_t& low) {
  const __nv_bfloat162 rounded = __floats2bfloat162_rn(first, second);
  uint32_t bits;
  memcpy(&bits, &rounded, sizeof bits);
  high = turn_matrix(bits);
  low = turn_matrix(
      pack_pair(first - __low2float(rounded), second - __high2float(rounded)));
}

// Softmax of one granule by itself: scores become weights.
template <int kDims, int kGroups>
__device__ void weigh(GqaTile<kDims, kGroups>& t, float (&scores)[2][kGroups][4],
                      int32_t first_token, float scale_log2) {
  const auto lane = static_cast<int32_t>(threadIdx.x % 32);
#pragma unroll
  for (int n = 0; n < kGroups; ++n) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float most = -INFINITY;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int32_t token = first_token + 8 * j + lane / 4;
        float& x = scores[j / 2][n][j % 2 * 2 + i];
        x = token < t.visible[n][i] ? x * scale_log2 : -INFINITY;
        most = fmaxf(most, x);
      }
#pragma unroll
      for (int offset = 4; offset < 32; offset *= 2)
        most = fmaxf(most, __shfl_xor_sync(0xFFFFFFFFU, most, offset));
      t.peak[n][i] = most;
      const float base = most == -INFINITY ? 0.0F : most;
      float total = 0.0F;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        float& x = scores[j / 2][n][j % 2 * 2 + i];
        x = exp2_fast(x - base);
        total += x;
      }
#pragma unroll
      for (int offset = 4; offset < 32; offset *= 2)
        total += __shfl_xor_sync(0xFFFFFFFFU, total, offset);
      t.total[n][i] = total;
    }
  }
}

// Weights as the next product's right side, for tokens 16 m + ... of group n.
template <int kGroups>
__device__ void split_weights(const float (&from)[2][kGroups][4], SplitWeights (&to)[2][kGroups]) {
#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (int n = 0; n < kGroups; ++n) {
      split(from[m][n][0], from[m][n][1], to[m][n].high[0], to[m][n].low[0]);
      split(from[m][n][2], from[m][n][3], to[m][n].high[1], to[m][n].low[1]);
    }
  }
}

// Tokens past a row's end may hold anything that an earlier sequence left: 0 times that must be 0.
template <int kDims>
__device__ void clear_tokens(uint8_t* values, int32_t first) {
  const auto lane = static_cast<int32_t>(threadIdx.x % 32);
  for (int32_t i = first * 8 + lane; i < kGqaGranuleTokens * 8; i += 32) {
#pragma unroll
    for (uint32_t tile = 0; tile < kDims / 64; ++tile)
      *reinterpret_cast<uint4*>(values + tile * kGqaTileBytes + i * 16) = uint4{0, 0, 0, 0};
  }
  __syncwarp();
}

// sums = values transposed times weights.
template <int kDims, int kGroups>
__device__ void add_values(GqaTile<kDims, kGroups>& t, uint32_t values,
                           const SplitWeights (&weights)[2][kGroups]) {
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t token = lane / 16 * 8 + lane % 8;
#pragma unroll
  for (uint32_t d = 0; d < kDims / 16; ++d) {
    const uint32_t unit = (d % 4 * 2 + lane / 8 % 2) ^ (lane & 7U);
#pragma unroll
    for (int n = 0; n < kGroups; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) t.sums[d][n][i] = 0.0F;
    }
#pragma unroll
    for (uint32_t m = 0; m < 2; ++m) {
      uint32_t value[4];
      load_matrices_across(value,
                           values + d / 4 * kGqaTileBytes + (m * 16 + token) * 128 + unit * 16);
#pragma unroll
      for (int n = 0; n < kGroups; ++n) {
        multiply_add(t.sums[d][n], value, weights[m][n].low);
        multiply_add(t.sums[d][n], value, weights[m][n].high);
      }
    }
  }
}

// Where dimension `d` of pair `p` lies while the warps' results are put together: float32 in the
// place of the values that they came from. kFp8: an eight of pairs has as much room as its warp's
// codes have, which lie between another warp's.
template <int kDims, bool kFp8>
__device__ uint32_t sum_at(uint32_t p, uint32_t d) {
  const uint32_t line = kFp8 ? p + p / 8 * 8 : p;
  return line * kDims + (d ^ (p / 2 % 4 * 8));
}

// kFp8: of 16 dimensions a lane has neighbours, which go in one store.
template <bool kFp8, int kDims, int kGroups>
__device__ void store_sums(const GqaTile<kDims, kGroups>& t, float* to, float2* statistics) {
  const uint32_t lane = threadIdx.x % 32;
#pragma unroll
  for (uint32_t n = 0; n < kGroups; ++n) {
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) {
      const uint32_t pair = 8 * n + lane % 4 * 2 + i;
      if (lane < 4) statistics[pair] = float2{t.peak[n][i], t.total[n][i]};
      if (t.visible[n][i] == 0) continue;
      // A place's dimension counts from a multiple of 32, above what sum_at turns over.
      float* const neighbours[2] = {to + sum_at<kDims, kFp8>(pair, lane / 4 * 2),
                                    to + sum_at<kDims, kFp8>(pair, 16 + lane / 4 * 2)};
#pragma unroll
      for (uint32_t d = 0; d < kDims / 16; ++d) {
        if constexpr (kFp8) {
          *reinterpret_cast<float2*>(neighbours[d % 2] + d / 2 * 32) =
              float2{t.sums[d][n][i], t.sums[d][n][i + 2]};
        } else {
          to[sum_at<kDims, kFp8>(pair, d * 16 + lane / 4)] = t.sums[d][n][i];
          to[sum_at<kDims, kFp8>(pair, d * 16 + lane / 4 + 8)] = t.sums[d][n][i + 2];
        }
      }
    }
  }
}

}  // namespace fathom::kernels
