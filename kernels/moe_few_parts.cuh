// Small parts of the kernels for few tokens: a box of interleaved rows, the fence between a store
// and the readers of the asynchronous proxy, the quantization of a group.
#pragma once

#include <cuda_fp8.h>

#include "async_copy.cuh"

namespace fathom::kernels {

// Copies the map's box of four dimensions; read once, so first to leave the cache.
__device__ inline void copy_box_streaming(void* to, const CUtensorMap* map, uint64_t* barrier,
                                          int32_t column, int32_t row, int32_t half,
                                          int32_t group) {
  constexpr uint64_t kEvictFirst = 0x12F0000000000000;
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1, {%3, %4, %5, %6}], [%2], %7;" ::"r"(shared_address(to)),
      "l"(map), "r"(shared_address(barrier)), "r"(column), "r"(row), "r"(half), "r"(group),
      "l"(kEvictFirst)
      : "memory");
}

// A score that another kernel waits for; never 0.
__device__ inline void post_score(uint32_t* to, float score) {
  constexpr uint32_t kNan = 0x7FC00000U;
  const uint32_t bits = __float_as_uint(score);
  const uint32_t post = ~(bits == 0xFFFFFFFFU ? kNan : bits);
  asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(to), "r"(post) : "memory");
}

// Of kEach experts a lane, 32 apart, of `experts`; by a warp.
template <int kEach>
__device__ void await_scores(const uint32_t* posts, int32_t experts, float (&scores)[kEach]) {
  for (bool all = false; !all;) {
    all = true;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int32_t e = static_cast<int32_t>(threadIdx.x % 32) + 32 * i;
      uint32_t post = ~__float_as_uint(-INFINITY);
      if (e < experts)
        asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];"
                     : "=r"(post)
                     : "l"(posts + e)
                     : "memory");
      scores[i] = __uint_as_float(~post);
      all = all && post != 0;
    }
    all = __all_sync(0xFFFFFFFFU, all) != 0;
  }
}

// What this thread wrote to shared memory is seen by wgmma.
__device__ inline void publish_to_wgmma() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// Scale of 128 columns whose largest magnitude (at least 1e-4) is given; ue8m0: a power of two.
__device__ inline float group_scale(float largest, bool ue8m0) {
  const float scale = largest / 448.0F;
  const uint32_t bits = __float_as_uint(scale);
  if (!ue8m0 || (bits & 0x7FFFFFU) == 0) return scale;
  return __uint_as_float((bits & 0x7F800000U) + 0x800000U);
}

// 128 columns by one warp. quads: four columns a lane, bf16.
__device__ inline void quantize_quads(const uint2& quads, bool ue8m0, uint8_t* codes,
                                      float* scale) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const float v[4] = {__uint_as_float(quads.x << 16), __uint_as_float(quads.x & 0xFFFF0000U),
                      __uint_as_float(quads.y << 16), __uint_as_float(quads.y & 0xFFFF0000U)};
  float largest = 1e-4F;
#pragma unroll
  for (const float one : v) largest = fmaxf(largest, fabsf(one));
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2)
    largest = fmaxf(largest, __shfl_xor_sync(0xFFFFFFFFU, largest, offset));
  const float s = group_scale(largest, ue8m0);
  uint32_t word = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint32_t code = __nv_cvt_float_to_fp8(v[i] / s, __NV_SATFINITE, __NV_E4M3);
    word |= code << (8 * i);
  }
  reinterpret_cast<uint32_t*>(codes)[lane] = word;
  if (lane == 0) *scale = s;
}

}  // namespace fathom::kernels
