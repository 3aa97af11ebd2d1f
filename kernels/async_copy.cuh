// Shared-memory barriers, the copy engine, and the dependency between overlapping kernels (PTX ISA:
// mbarrier, cp.async.bulk.tensor, cp.async, griddepcontrol).
#pragma once

#include <cuda.h>

#include <cstdint>

namespace fathom::kernels {

__device__ inline uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

__device__ inline void barrier_init(uint64_t* barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)),
               "r"(arrivals)
               : "memory");
}

// Makes initialised barriers known to the copy engine; a block barrier follows.
__device__ inline void barrier_init_done() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// By the barrier's address in this block's shared memory.
__device__ inline void barrier_arrive_at(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
__device__ inline void barrier_arrive(uint64_t* barrier) {
  barrier_arrive_at(shared_address(barrier));
}

// A warp's arrivals where it is done with what a barrier guards. Lanes that read it by loads each
// arrive, so that tools which follow arrivals by thread (racecheck) know of every one; where tensor
// cores alone read it, one lane arrives for all.
template <bool kEachLane>
inline constexpr int kWarpArrivals = kEachLane ? 32 : 1;

template <bool kEachLane>
__device__ inline void barrier_arrive_of_warp(uint64_t* barrier) {
  if constexpr (!kEachLane) __syncwarp();
  if (kEachLane || threadIdx.x % 32 == 0) barrier_arrive(barrier);
}

// One arrival, and `bytes` more that copies will bring.
__device__ inline void barrier_expect(uint64_t* barrier, uint32_t bytes) {
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
      "r"(bytes)
      : "memory");
}

// Waits until the phase of this parity is complete, of a barrier in this block's shared memory.
__device__ inline void barrier_wait_at(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n.reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n}\n" ::"r"(barrier),
      "r"(parity)
      : "memory");
}
__device__ inline void barrier_wait(uint64_t* barrier, uint32_t parity) {
  barrier_wait_at(shared_address(barrier), parity);
}

// Copies the map's box at (column, row) to shared memory; read once, so first to leave the cache.
__device__ inline void copy_tile_streaming(void* to, const CUtensorMap* map, uint64_t* barrier,
                                           int32_t column, int32_t row) {
  constexpr uint64_t kEvictFirst = 0x12F0000000000000;
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1, {%3, %4}], [%2], %5;" ::"r"(shared_address(to)),
      "l"(map), "r"(shared_address(barrier)), "r"(column), "r"(row), "l"(kEvictFirst)
      : "memory");
}

__device__ inline void copy_tile(void* to, const CUtensorMap* map, uint64_t* barrier,
                                 int32_t column, int32_t row) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4}], [%2];" ::"r"(shared_address(to)),
      "l"(map), "r"(shared_address(barrier)), "r"(column), "r"(row)
      : "memory");
}

__device__ inline void prefetch_map(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// Copies one word, or writes zero when `present` is false.
__device__ inline void copy_word(float* to, const float* from, bool present) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(to)), "l"(from),
               "r"(present ? 4 : 0)
               : "memory");
}

// This thread's arrival, when its copies so far have landed. The barrier counts it at init.
__device__ inline void barrier_arrive_after_copies(uint64_t* barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(shared_address(barrier))
               : "memory");
}

// The next kernel of the stream may take free room now (once every block has said so).
__device__ inline void let_next_kernel_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Everything that earlier kernels of the stream wrote is visible after it. Before it a kernel reads
// weights alone, and writes nothing to global memory. Before Hopper no kernel starts early
// (early_launch.cuh).
__device__ inline void wait_for_earlier_kernels() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// The blocks of a cluster, and their shared memory.
__device__ inline uint32_t cluster_rank() {
  uint32_t rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

// After the wait, what every thread of the cluster did before its arrival is known to this one.
// Both by whole warps; all threads arrive, those that need it wait.
__device__ inline void cluster_arrive() {
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}
__device__ inline void cluster_wait() {
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// Writes to the place of `to` in another block's shared memory; its `barrier` counts the bytes.
__device__ inline void send(const float4* to, const uint64_t* barrier, uint32_t rank, float4 v) {
  uint32_t address;
  uint32_t remote_barrier;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(shared_address(to)), "r"(rank));
  asm("mapa.shared::cluster.u32 %0, %1, %2;"
      : "=r"(remote_barrier)
      : "r"(shared_address(barrier)), "r"(rank));
  asm volatile(
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 "
      "[%0], {%1, %2, %3, %4}, [%5];" ::"r"(address),
      "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w), "r"(remote_barrier)
      : "memory");
}

}  // namespace fathom::kernels
