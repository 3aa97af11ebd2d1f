// Copies and arrivals between the blocks of a cluster (PTX ISA: mapa, mbarrier.arrive,
// cp.async.bulk.tensor with multicast, st.async).
#pragma once

#include "async_copy.cuh"

namespace fathom::kernels {

// The same place in a block of the cluster.
__device__ inline uint32_t cluster_address(const void* p, uint32_t rank) {
  uint32_t address;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(shared_address(p)), "r"(rank));
  return address;
}

// Of what this thread read. Its writes are not made known to the other block.
__device__ inline void barrier_arrive_remote(uint32_t cluster_barrier) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(cluster_barrier) : "memory");
}

// The box lands at the same place in every block of the cluster that `blocks` has a bit for, and
// is counted by the barrier there.
__device__ inline void copy_tile_to_blocks(void* to, const CUtensorMap* map, uint64_t* barrier,
                                           int32_t column, int32_t row, uint16_t blocks) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
      ".multicast::cluster [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(shared_address(to)),
      "l"(map), "r"(shared_address(barrier)), "r"(column), "r"(row), "h"(blocks)
      : "memory");
}

// Writes to the place of `to` in a block of the cluster; its `barrier` counts four bytes.
__device__ inline void send_word(const int32_t* to, const uint64_t* barrier, uint32_t rank,
                                 int32_t value) {
  asm volatile(
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.s32 [%0], %1, [%2];" ::"r"(
          cluster_address(to, rank)),
      "r"(value), "r"(cluster_address(barrier, rank))
      : "memory");
}

// To the same place of a block of the cluster, whose barrier counts the bytes.
__device__ inline void send_to_block(const void* to, const uint64_t* barrier, uint32_t rank,
                                     uint2 v) {
  asm volatile(
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.b32 [%0], {%1, %2}, "
      "[%3];" ::"r"(cluster_address(to, rank)),
      "r"(v.x), "r"(v.y), "r"(cluster_address(barrier, rank))
      : "memory");
}
__device__ inline void send_to_block(const void* to, const uint64_t* barrier, uint32_t rank,
                                     float v) {
  asm volatile(
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.f32 [%0], %1, [%2];" ::"r"(
          cluster_address(to, rank)),
      "f"(v), "r"(cluster_address(barrier, rank))
      : "memory");
}

}  // namespace fathom::kernels
