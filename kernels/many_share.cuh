// Sums of a shared item on their way from the two that begins it to the two that ends it: a warp's
// through memory to the same warp there, so that none waits for another.
#pragma once

#include "many_parts.cuh"

namespace fathom::kernels {

struct ManyHandOver {
  float4* sums;    // this lane's, 32 lanes from one to the next
  uint32_t* word;  // this warp's: not zero once they are there

  __device__ ManyHandOver(const ManyArgs& a, int32_t shared, int32_t rank) {
    const auto warp = static_cast<int32_t>(threadIdx.x / 32);
    const int32_t index = (shared * 2 + rank) * (kManyMathThreads / 32) + warp;
    sums = a.sums + index * 1024 + static_cast<int32_t>(threadIdx.x % 32);
    word = a.words + index;
  }
  // Of all the warp's sums, `first` and on.
  template <int kCount>
  __device__ void put(int first, const float (&from)[kCount]) const {
#pragma unroll
    for (int i = 0; i < kCount / 4; ++i) {
      __stcg(sums + (first / 4 + i) * 32,
             make_float4(from[4 * i], from[4 * i + 1], from[4 * i + 2], from[4 * i + 3]));
    }
  }
  __device__ void tell() const {
    __syncwarp();
    if (threadIdx.x % 32 == 0)
      asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(word), "r"(1U) : "memory");
  }
  // Leaves the word as it was before the launch.
  __device__ void wait() const {
    if (threadIdx.x % 32 == 0) {
      uint32_t there = 0;
      while (there == 0)
        asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(there) : "l"(word) : "memory");
      *word = 0;
    }
    __syncwarp();
  }
  template <int kCount>
  __device__ void add(int first, float (&total)[kCount]) const {
#pragma unroll
    for (int i = 0; i < kCount / 4; ++i) {
      const float4 v = __ldcg(sums + (first / 4 + i) * 32);
      total[4 * i] += v.x;
      total[4 * i + 1] += v.y;
      total[4 * i + 2] += v.z;
      total[4 * i + 3] += v.w;
    }
  }
};

}  // namespace fathom::kernels
