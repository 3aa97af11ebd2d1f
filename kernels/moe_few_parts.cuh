// Small parts of the kernels for few tokens: a box of interleaved rows, the fence between a store
// and the readers of the asynchronous proxy, a group's scale.
#pragma once

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

}  // namespace fathom::kernels
