// The lists of grouped products from ids, and the launch that fills the order where one block would
// take too long.
#include "async_copy.cuh"
#include "early_launch.cuh"
#include "grouped_lists.cuh"
#include "grouped_schedule.h"

namespace fathom::kernels {
namespace {

// counters.pairs[e] = pairs of expert e.
__global__ void __launch_bounds__(kListThreads)
    count_kernel(GroupedPairs pairs, GroupedCounters* counters) {
  __shared__ int32_t here[kMoeExpertsMax];
  const auto thread = static_cast<int32_t>(threadIdx.x);
  here[thread] = 0;
  __syncthreads();
  const int32_t e = pairs.expert_of(static_cast<int32_t>(blockIdx.x) * kListThreads + thread);
  if (e >= 0) atomicAdd(&here[e], 1);
  __syncthreads();
  if (here[thread] > 0) atomicAdd(&counters->pairs[thread], here[thread]);
}

__global__ void __launch_bounds__(kListThreads)
    tiles_kernel(GroupedPairs pairs, GroupedSchedule schedule, int32_t tokens) {
  __shared__ int32_t shared[kListThreads / 16];
  make_tiles(pairs, schedule, tokens, shared);
}

// Which place of its expert's a pair gets changes nothing but where it is computed.
__global__ void __launch_bounds__(kListThreads)
    place_kernel(GroupedPairs pairs, GroupedSchedule schedule) {
  __shared__ int32_t here[kMoeExpertsMax];
  const auto thread = static_cast<int32_t>(threadIdx.x);
  let_next_kernel_start();
  here[thread] = 0;
  wait_for_earlier_kernels();
  __syncthreads();
  const int32_t pair = static_cast<int32_t>(blockIdx.x) * kListThreads + thread;
  const int32_t e = pairs.expert_of(pair);
  const int32_t rank = e >= 0 ? atomicAdd(&here[e], 1) : 0;
  __syncthreads();
  if (here[thread] > 0) here[thread] = atomicAdd(&schedule.counters->cursors[thread], here[thread]);
  __syncthreads();
  if (e >= 0) schedule.order[here[e] + rank] = pair;
}

unsigned blocks_of(const GroupedPairs& pairs) {
  return static_cast<unsigned>((pairs.count + kListThreads - 1) / kListThreads);
}

}  // namespace

cudaError_t grouped_places(cudaStream_t stream, const GroupedRouting& r,
                           const GroupedSchedule& schedule) {
  const GroupedPairs pairs = pairs_of(r);
  return launch_early(stream, place_kernel, dim3(blocks_of(pairs)), dim3(kListThreads), pairs,
                      schedule);
}

cudaError_t grouped_lists(cudaStream_t stream, const GroupedRouting& r,
                          const GroupedSchedule& schedule) {
  const GroupedPairs pairs = pairs_of(r);
  cudaMemsetAsync(schedule.counters, 0, sizeof(GroupedCounters), stream);
  count_kernel<<<blocks_of(pairs), kListThreads, 0, stream>>>(pairs, schedule.counters);
  tiles_kernel<<<1, kListThreads, 0, stream>>>(pairs, schedule, static_cast<int32_t>(r.tokens));
  return grouped_places(stream, r, schedule);
}

}  // namespace fathom::kernels
