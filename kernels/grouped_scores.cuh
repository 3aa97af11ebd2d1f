// Router scores on tensor cores with the precision of float32: x is bf16, a weight is the sum of
// three bf16 numbers, every product is exact and sums are float32. Straight from memory: a sum over
// columns may be taken in any order, so a lane's four neighbouring columns serve as the two pairs
// that the product wants apart.
#pragma once

#include "number.cuh"

#include <cstdint>

namespace fathom::kernels {

constexpr int kScoreStep = 16;  // columns of a product

// Sixteen columns of eight experts: a lane has four of one.
struct ScoreWeights {
  uint32_t parts[3][2];

  __device__ void split(const float4& w) {
    float v[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
    for (int part = 0; part < 3; ++part) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint32_t pair = pack_pair(v[2 * half], v[2 * half + 1]);
        parts[part][half] = pair;
        v[2 * half] -= __uint_as_float(pair << 16);
        v[2 * half + 1] -= __uint_as_float(pair & 0xFFFF0000U);
      }
    }
  }
};

// c += 16 tokens by 8 experts. low, high: of tokens lane / 4 and 8 further, four columns.
__device__ inline void add_scores(float (&c)[4], const uint2& low, const uint2& high,
                                  const ScoreWeights& w) {
#pragma unroll
  for (int part = 2; part >= 0; --part) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(low.x), "r"(high.x), "r"(low.y), "r"(high.y), "r"(w.parts[part][0]),
          "r"(w.parts[part][1]));
  }
}

}  // namespace fathom::kernels
