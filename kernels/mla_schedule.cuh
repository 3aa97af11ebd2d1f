// Cuts a step's cached tokens into equal parts, once a step, on the device: no host value depends
// on a sequence's length. And the merge of sequences that were cut.
#pragma once

#include "mla_decode_common.cuh"

namespace fathom::kernels {

inline constexpr int kScheduleThreads = 256;

// Hands out `budget` blocks a part in the rows' order; a row's start in a part costs `overhead`
// more. Returns the parts that are used; writes them down when kWrite. A turn of the loop is one
// piece, almost without branches: 32 threads with budgets of their own stay together.
template <bool kWrite>
__device__ int32_t hand_out(const int32_t* blocks, int32_t rows, int32_t budget, int32_t overhead,
                            const MlaSchedule& schedule) {
  int32_t part = 0;
  int32_t room = budget;
  int32_t row = 0;
  int32_t all = blocks[0];
  int32_t left = all;
  int32_t next = blocks[1];
  MlaPart current{0, 0, 0, 0};
  MlaCut cut{0, 0};
  while (row < rows) {
    const int32_t taken = min(left, room - overhead);
    if constexpr (kWrite) {
      if (taken > 0 && cut.pieces++ == 0)
        cut.first_slot = 2 * part + (current.row_begin == row ? 0 : 1);
    }
    left -= taken;
    room -= taken > 0 ? taken + overhead : 0;
    const bool part_ends = room <= overhead;
    const bool row_ends = left == 0;
    if constexpr (kWrite) {
      current.row_end = row;
      current.tile_end = all - left;
      if (part_ends) {
        schedule.parts[part] = current;
        current.row_begin = row + (row_ends ? 1 : 0);
        current.tile_begin = row_ends ? 0 : all - left;
      }
      if (row_ends) {
        schedule.cuts[row] = cut;
        cut = MlaCut{0, 0};
      }
    }
    part += part_ends ? 1 : 0;
    room = part_ends ? budget : room;
    row += row_ends ? 1 : 0;
    all = row_ends ? next : all;
    left = row_ends ? next : left;
    next = blocks[row + 1];
  }
  if (kWrite && room < budget) schedule.parts[part] = current;
  return part + (room < budget ? 1 : 0);
}

// One block. The smallest budget whose parts suffice: a warp tries 32 at once.
__global__ void __launch_bounds__(kScheduleThreads)
    mla_schedule_kernel(MlaDecodeRows rows, int32_t count, int32_t parts, int32_t overhead,
                        MlaSchedule schedule) {
  extern __shared__ int32_t blocks[];
  __shared__ int32_t all;
  if (threadIdx.x == 0) all = 0;
  let_next_kernel_start();
  wait_for_earlier_kernels();
  __syncthreads();
  int32_t mine = 0;
  for (int32_t r = static_cast<int32_t>(threadIdx.x); r < count; r += kScheduleThreads) {
    blocks[r] = blocks_of_row(rows, r);
    mine += blocks[r] == 0 ? 0 : blocks[r] + overhead;
  }
  if (threadIdx.x < 2) blocks[count + threadIdx.x] = 0;  // hand_out looks one row ahead
  atomicAdd(&all, mine);
  for (int32_t p = static_cast<int32_t>(threadIdx.x); p < parts; p += kScheduleThreads)
    schedule.parts[p] = MlaPart{0, 0, -1, 0};
  __syncthreads();
  if (threadIdx.x >= 32) return;
  int32_t budget = max((all + parts - 1) / parts, overhead + 1);
  while (true) {
    const int32_t tried = budget + static_cast<int32_t>(threadIdx.x);
    const bool fits = hand_out<false>(blocks, count, tried, overhead, schedule) <= parts;
    const unsigned fitting = __ballot_sync(0xFFFFFFFFU, fits);
    if (fitting != 0) {
      budget += __ffs(static_cast<int>(fitting)) - 1;
      break;
    }
    budget += 32;
  }
  if (threadIdx.x == 0) hand_out<true>(blocks, count, budget, overhead, schedule);
}

inline constexpr int kMergeThreads = 512;

// Rows that were cut: a weighted sum of the pieces in their order. kFewRows: a block takes one
// (token, head) pair and its four groups of threads share the pieces; else a group takes a pair.
template <bool kFewRows>
__global__ void __launch_bounds__(kMergeThreads)
    mla_merge_kernel(const __grid_constant__ MlaDecodeArgs a, int32_t pairs_max,
                     int32_t tile_pairs) {
  constexpr int32_t kPairs = kFewRows ? 1 : 4;
  __shared__ float weights[kPairs][kMlaPartsMax];
  __shared__ float4 sums[kFewRows ? 4 : 1][128];
  let_next_kernel_start();
  wait_for_earlier_kernels();
  const int32_t blocks = (pairs_max + kPairs - 1) / kPairs;
  const int32_t row = static_cast<int32_t>(blockIdx.x) / blocks;
  const auto group = static_cast<int32_t>(threadIdx.x / 128);
  const auto lane = static_cast<int32_t>(threadIdx.x % 128);
  const int32_t pair = static_cast<int32_t>(blockIdx.x) % blocks * kPairs + (kFewRows ? 0 : group);
  const MlaCut cut = a.schedule.cuts[row];
  if (cut.pieces <= 1) return;
  const bool real = pair < a.rows.query[row] * a.heads;
  const auto partial_row = [&](int32_t i) {
    const int32_t slot = i == 0 ? cut.first_slot : 2 * (cut.first_slot / 2 + i);
    return (int64_t{slot} * a.tiles + pair / tile_pairs) * tile_pairs + pair % tile_pairs;
  };
  float* w = weights[kFewRows ? 0 : group];
  if (real && lane < 32 && (!kFewRows || group == 0)) {
    float most = -INFINITY;
    for (int32_t i = lane; i < cut.pieces; i += 32) {
      w[i] = a.partial_logsumexp[partial_row(i)];
      most = fmaxf(most, w[i]);
    }
    for (int offset = 16; offset > 0; offset /= 2)
      most = fmaxf(most, __shfl_xor_sync(0xFFFFFFFFU, most, offset));
    float total = 0.0F;
    for (int32_t i = lane; i < cut.pieces; i += 32) total += exp2f(w[i] - most);
    for (int offset = 16; offset > 0; offset /= 2)
      total += __shfl_xor_sync(0xFFFFFFFFU, total, offset);
    for (int32_t i = lane; i < cut.pieces; i += 32) w[i] = exp2f(w[i] - most) / total;
  }
  __syncthreads();
  if (!real) return;
  float4 sum{0.0F, 0.0F, 0.0F, 0.0F};
#pragma unroll 4
  for (int32_t i = kFewRows ? group : 0; i < cut.pieces; i += kFewRows ? 4 : 1) {
    const float4 x = reinterpret_cast<const float4*>(a.partial + partial_row(i) * kMlaLatent)[lane];
    sum.x += w[i] * x.x;
    sum.y += w[i] * x.y;
    sum.z += w[i] * x.z;
    sum.w += w[i] * x.w;
  }
  if constexpr (kFewRows) {
    sums[group][lane] = sum;
    __syncthreads();
    if (group != 0) return;
    for (int g = 1; g < 4; ++g) {
      const float4 x = sums[g][lane];
      sum = float4{sum.x + x.x, sum.y + x.y, sum.z + x.z, sum.w + x.w};
    }
  }
  const int64_t to = (int64_t{a.rows.first[row]} * a.heads + pair) * kMlaLatent;
  reinterpret_cast<uint2*>(a.out + to)[lane] =
      uint2{pack_bf16(sum.x, sum.y), pack_bf16(sum.z, sum.w)};
}

}  // namespace fathom::kernels
