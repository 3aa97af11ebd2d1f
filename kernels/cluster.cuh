// The blocks of a cluster at their start (PTX ISA: barrier.cluster).
#pragma once

namespace fathom::kernels {

// With cluster_wait (async_copy.cuh) behind it: makes this block's initialised barriers, of
// barrier_init_done, known to the cluster. It orders nothing else: a release of the cluster's scope
// is a fence of the whole GPU, more than half a microsecond where weights stream.
__device__ inline void cluster_arrive_relaxed() {
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}

}  // namespace fathom::kernels
