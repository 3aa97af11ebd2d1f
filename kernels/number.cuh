// Number formats inside kernels: every value is float32 between its loads and stores.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include <cstdint>

#include "format.h"

namespace fathom::kernels {

__device__ inline float load_number(const void* p, Format f, int64_t i) {
  switch (f) {
    case Format::kF32: return static_cast<const float*>(p)[i];
    case Format::kBF16: return __bfloat162float(static_cast<const __nv_bfloat16*>(p)[i]);
    default: {
      __nv_fp8_e4m3 code;
      code.__x = static_cast<const uint8_t*>(p)[i];
      return static_cast<float>(code);
    }
  }
}

__device__ inline void store_number(void* p, Format f, int64_t i, float x) {
  if (f == Format::kF32) {
    static_cast<float*>(p)[i] = x;
  } else {
    static_cast<__nv_bfloat16*>(p)[i] = __float2bfloat16_rn(x);
  }
}

__device__ inline float round_number(Format f, float x) {
  return f == Format::kF32 ? x : __bfloat162float(__float2bfloat16_rn(x));
}

// Sum over a warp; every lane gets it. The order is fixed.
__device__ inline float warp_sum(float x) {
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(0xFFFFFFFFU, x, offset);
  return x;
}

// Sum and maximum over a block of `blockDim.x` threads (a multiple of 32, at most 1024); every
// thread gets them. `shared` holds 32 floats.
__device__ inline float block_sum(float x, float* shared) {
  x = warp_sum(x);
  __syncthreads();
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
  __syncthreads();
  float total = 0.0F;
  for (unsigned w = 0; w < blockDim.x / 32; ++w) total += shared[w];
  return total;
}

__device__ inline float block_max(float x, float* shared) {
  for (int offset = 16; offset > 0; offset /= 2) {
    x = fmaxf(x, __shfl_xor_sync(0xFFFFFFFFU, x, offset));
  }
  __syncthreads();
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
  __syncthreads();
  float most = shared[0];
  for (unsigned w = 1; w < blockDim.x / 32; ++w) most = fmaxf(most, shared[w]);
  return most;
}

// Two numbers rounded to bf16, `low` in the low half.
__device__ inline uint32_t pack_pair(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  uint32_t bits;
  memcpy(&bits, &pair, sizeof bits);
  return bits;
}

// 2 to x, as the special-function unit approximates it; what is below the normal numbers is 0.
__device__ inline float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace fathom::kernels
