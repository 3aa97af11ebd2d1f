// The lists of a grouped product.
#include "grouped_gemm.h"

namespace fathom::kernels {
namespace {

constexpr int kListThreads = 1024;
constexpr int kEvenTiles = 3;

// Of a launch that makes lists: a pair a thread.
struct Pairs {
  const int32_t* ids;
  const uint8_t* token_valid;
  int64_t count;
  int32_t k;
  int32_t first_expert;
  int32_t expert_count;

  // This rank's expert of a pair, or -1.
  __device__ int32_t expert_of(int64_t pair) const {
    if (pair >= count || token_valid[pair / k] == 0) return -1;
    const int32_t e = ids[pair] - first_expert;
    return e >= 0 && e < expert_count ? e : -1;
  }
};

// counts[e] = pairs of expert e.
__global__ void __launch_bounds__(kListThreads) count_kernel(Pairs pairs, int32_t* counts) {
  __shared__ int32_t here[kMoeExpertsMax];
  const auto thread = static_cast<int32_t>(threadIdx.x);
  if (thread < pairs.expert_count) here[thread] = 0;
  __syncthreads();
  const int32_t e = pairs.expert_of(int64_t{blockIdx.x} * kListThreads + thread);
  if (e >= 0) atomicAdd(&here[e], 1);
  __syncthreads();
  if (thread < pairs.expert_count && here[thread] > 0) atomicAdd(&counts[thread], here[thread]);
}

// cursors[e] = the first place of expert e in the order; the tiles of all experts.
__global__ void __launch_bounds__(kMoeExpertsMax)
    tiles_kernel(int32_t expert_count, const int32_t* counts, int32_t* cursors, GroupedTile* tiles,
                 int32_t* tile_count) {
  __shared__ int32_t pairs[kMoeExpertsMax];  // up to and with each expert
  __shared__ int32_t tiles_to[kMoeExpertsMax];
  const auto e = static_cast<int32_t>(threadIdx.x);
  const int32_t count = e < expert_count ? counts[e] : 0;
  const int32_t mine = (count + kGroupedTileRows - 1) / kGroupedTileRows;
  pairs[e] = count;
  tiles_to[e] = mine;
  for (int32_t step = 1; step < kMoeExpertsMax; step *= 2) {
    __syncthreads();
    const int32_t more_pairs = e >= step ? pairs[e - step] : 0;
    const int32_t more_tiles = e >= step ? tiles_to[e - step] : 0;
    __syncthreads();
    pairs[e] += more_pairs;
    tiles_to[e] += more_tiles;
  }
  const int32_t first = pairs[e] - count;
  const int32_t first_tile = tiles_to[e] - mine;
  if (e < expert_count) cursors[e] = first;
  if (e == kMoeExpertsMax - 1) *tile_count = tiles_to[e];
  // Tiles that alone share weights are as even as whole rows go, so that they keep step and the
  // second to read finds the weights in L2. Of many, the last has what is left.
  const bool even = mine <= kEvenTiles;
  for (int32_t t = 0; t < mine; ++t) {
    const int32_t begin = even ? count * t / mine : t * kGroupedTileRows;
    const int32_t end = even ? count * (t + 1) / mine : min(count, begin + kGroupedTileRows);
    tiles[first_tile + t] = {e, first + begin, end - begin, first_tile, mine, {0, 0, 0}};
  }
}

// Which place of its expert's a pair gets changes nothing but where it is computed.
__global__ void __launch_bounds__(kListThreads)
    place_kernel(Pairs pairs, int32_t* cursors, int32_t* order) {
  __shared__ int32_t here[kMoeExpertsMax];
  const auto thread = static_cast<int32_t>(threadIdx.x);
  if (thread < pairs.expert_count) here[thread] = 0;
  __syncthreads();
  const int64_t pair = int64_t{blockIdx.x} * kListThreads + thread;
  const int32_t e = pairs.expert_of(pair);
  const int32_t rank = e >= 0 ? atomicAdd(&here[e], 1) : 0;
  __syncthreads();
  if (thread < pairs.expert_count && here[thread] > 0)
    here[thread] = atomicAdd(&cursors[thread], here[thread]);
  __syncthreads();
  if (e >= 0) order[here[e] + rank] = static_cast<int32_t>(pair);
}

}  // namespace

void grouped_schedule(cudaStream_t stream, const int32_t* ids, const uint8_t* token_valid,
                      int64_t tokens, int32_t k, int32_t first_expert, int32_t expert_count,
                      const GroupedSchedule& schedule) {
  const Pairs pairs{ids, token_valid, tokens * k, k, first_expert, expert_count};
  const auto blocks = static_cast<unsigned>((pairs.count + kListThreads - 1) / kListThreads);
  int32_t* counts = schedule.cursors + kMoeExpertsMax;
  cudaMemsetAsync(counts, 0, kMoeExpertsMax * sizeof(int32_t), stream);
  count_kernel<<<blocks, kListThreads, 0, stream>>>(pairs, counts);
  tiles_kernel<<<1, kMoeExpertsMax, 0, stream>>>(expert_count, counts, schedule.cursors,
                                                     schedule.tiles, schedule.tile_count);
  place_kernel<<<blocks, kListThreads, 0, stream>>>(pairs, schedule.cursors, schedule.order);
}

}  // namespace fathom::kernels
