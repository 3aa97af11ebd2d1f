// Products of 16 tokens with 16 columns of one head's weights (mma.sync, m16n8k16), a warp's work.
// Since a sum over K may be taken in any order that both sides share, a thread takes 16 bytes of a
// row, eight neighbours in K, as the fragments of two products. Columns are dealt so that a thread
// ends with four neighbours.
#pragma once

#include <cstdint>

namespace fathom::kernels {

__device__ inline void multiply_16x8(float (&d)[4], const uint4& low, const uint4& high,
                                     const uint4& b) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(low.x), "r"(high.x), "r"(low.y), "r"(high.y), "r"(b.x), "r"(b.y));
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(low.z), "r"(high.z), "r"(low.w), "r"(high.w), "r"(b.z), "r"(b.w));
}

// Weights, which nobody writes: loaded where it is written, though a wait for other kernels
// follows.
__device__ inline uint4 load_weights(const void* p) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p));
  return v;
}

// 16 columns of weights, K columns [first, first + 128) of rows `inner` long.
struct HeadWeights {
  uint4 part[4][2];

  // `w`: the first of the 16 columns at K = first. bf16.
  __device__ void load(const uint16_t* w, int inner) {
    const int lane = static_cast<int>(threadIdx.x % 32);
    const int column = lane / 8 * 4 + lane / 4 % 2;
    const uint16_t* from = w + int64_t{column} * inner + lane % 4 * 8;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      part[k][0] = load_weights(from + k * 32);
      part[k][1] = load_weights(from + int64_t{2} * inner + k * 32);
    }
  }
};

// A thread's sums: of tokens lane / 4 and 8 more, columns lane % 4 * 4 and the three behind.
struct HeadSums {
  float d[2][4];

  __device__ void clear() {
#pragma unroll
    for (int i = 0; i < 8; ++i) d[i / 4][i % 4] = 0.0F;
  }
  __device__ void add(const uint4& low, const uint4& high, const HeadWeights& w, int k) {
    multiply_16x8(d[0], low, high, w.part[k][0]);
    multiply_16x8(d[1], low, high, w.part[k][1]);
  }
  // Of token lane / 4 + 8 half.
  __device__ float4 columns(int half) const {
    return {d[0][2 * half], d[0][2 * half + 1], d[1][2 * half], d[1][2 * half + 1]};
  }
};

}  // namespace fathom::kernels
