// Deals a step's cached tokens to parts, once a step, on the device: no host value depends on a
// sequence's length. And the merge of sequences that were cut.
#pragma once

#include "mla_decode_common.cuh"

namespace fathom::kernels {

inline constexpr int kScheduleThreads = 256;

// What parts are cut by.
struct MlaCutting {
  int32_t parts = 0;
  int32_t overhead = 0;  // of a row, in blocks
  int32_t slots = 0;
  bool fixed = false;
};

// Before block `tile` of row `row`.
struct MlaPlace {
  int32_t row;
  int32_t tile;
};

// Of each row, in shared memory.
struct MlaRowPlan {
  int32_t* start;    // [rows + 1] cost of the rows before it
  int32_t* begin;    // [rows] the first place inside it where a part begins
  int32_t* pieces;   // [rows] partial results, 0 when it is not cut
  int32_t* ordinal;  // [rows] of those that are not padding; then its first partial result
};

// values[i] becomes the sum of the values before it; returns the sum of all. One block.
__device__ inline int32_t sums_before(int32_t* values, int32_t count, int32_t* shared) {
  const auto thread = static_cast<int32_t>(threadIdx.x);
  const int32_t each = (count + kScheduleThreads - 1) / kScheduleThreads;
  const int32_t first = min(thread * each, count);
  const int32_t end = min(first + each, count);
  int32_t mine = 0;
  for (int32_t i = first; i < end; ++i) mine += values[i];
  int32_t upto = mine;
  for (int32_t offset = 1; offset < 32; offset *= 2) {
    const int32_t other = __shfl_up_sync(0xFFFFFFFFU, upto, offset);
    if (thread % 32 >= offset) upto += other;
  }
  __syncthreads();
  if (thread % 32 == 31) shared[thread / 32] = upto;
  __syncthreads();
  int32_t before = upto - mine;
  int32_t all = 0;
  for (int32_t w = 0; w < kScheduleThreads / 32; ++w) {
    before += w < thread / 32 ? shared[w] : 0;
    all += shared[w];
  }
  for (int32_t i = first; i < end; ++i) {
    const int32_t value = values[i];
    values[i] = before;
    before += value;
  }
  __syncthreads();
  return all;
}

// Where a part begins when `cost` lies before it.
__device__ inline MlaPlace place_at(const MlaRowPlan& plan, int32_t rows, const MlaCutting& how,
                                    int32_t cost) {
  if (cost >= plan.start[rows]) return MlaPlace{rows, 0};
  int32_t low = 0;  // the last row that starts at `cost` or before
  for (int32_t high = rows; high - low > 1;) {
    const int32_t middle = (low + high) / 2;
    (plan.start[middle] <= cost ? low : high) = middle;
  }
  const int32_t blocks = plan.start[low + 1] - plan.start[low] - how.overhead;
  int32_t tile = max(cost - plan.start[low] - how.overhead, 0);
  if (how.fixed) tile = mla_nearest_cut(tile);
  return tile >= blocks ? MlaPlace{low + 1, 0} : MlaPlace{low, tile};
}

// A row that no part begins in is whole; so is one whose partial results find no place.
__device__ inline MlaPlace place_of_part(const MlaRowPlan& plan, int32_t rows,
                                         const MlaCutting& how, int32_t cost) {
  const MlaPlace place = place_at(plan, rows, how, cost);
  const bool inside = place.row < rows && place.tile > 0;
  return inside && plan.pieces[place.row] == 0 ? MlaPlace{place.row + 1, 0} : place;
}

// Cost before part `number`: parts that are used differ by one at least.
__device__ inline int32_t cost_before(const MlaRowPlan& plan, int32_t rows, const MlaCutting& how,
                                      int32_t number) {
  const int32_t all = plan.start[rows];
  const int32_t used = max(min(how.parts, all), 1);
  return static_cast<int32_t>(int64_t{all} * min(number, used) / used);
}

inline constexpr MlaPart kMlaNoPart{0, 0, -1, 0, MlaRow{0, 0, 0, 0}};

// Counts the places inside of each row where parts begin, and gives their rows partial results.
__device__ inline void plan_cuts(const MlaRowPlan& plan, int32_t rows, const MlaCutting& how,
                                 int32_t* shared, const MlaSchedule& schedule) {
  const auto thread = static_cast<int32_t>(threadIdx.x);
  for (int32_t r = thread; r < rows; r += kScheduleThreads) {
    plan.begin[r] = INT32_MAX;
    plan.pieces[r] = 0;
  }
  __syncthreads();
  for (int32_t p = thread; p < how.parts; p += kScheduleThreads) {
    const MlaPlace place = place_at(plan, rows, how, cost_before(plan, rows, how, p));
    if (place.row == rows || place.tile == 0) continue;
    atomicMin(&plan.begin[place.row], how.fixed ? place.tile : p);
    atomicAdd(&plan.pieces[place.row], 1);
  }
  __syncthreads();
  for (int32_t r = thread; r < rows; r += kScheduleThreads) {
    const int32_t last = plan.start[r + 1] - plan.start[r] - how.overhead - 1;
    if (plan.pieces[r] > 0) {
      plan.pieces[r] = how.fixed ? mla_stretch_number(last) - mla_stretch_number(plan.begin[r]) + 2
                                 : plan.pieces[r] + 1;
    }
    plan.ordinal[r] = plan.pieces[r];
  }
  __syncthreads();
  sums_before(plan.ordinal, rows, shared);
  for (int32_t r = thread; r < rows; r += kScheduleThreads) {
    if (plan.pieces[r] > kMlaRowSlotsMax || plan.ordinal[r] + plan.pieces[r] > how.slots)
      plan.pieces[r] = 0;
    const int32_t origin = (how.fixed ? mla_stretch_number(plan.begin[r]) : plan.begin[r]) - 1;
    schedule.cuts[r] =
        plan.pieces[r] == 0 ? MlaCut{0, 0, 0} : MlaCut{plan.ordinal[r], plan.pieces[r], origin};
  }
  __syncthreads();
}

// Of a step.
struct Totals {
  int32_t rows = 0;    // that are not padding
  int32_t budget = 0;  // what a part costs when all cost the same
};

// Equal numbers of neighbouring rows to parts, none of them cut, when that makes no part more than
// an eighth heavier than it must be; else false. `plan.ordinal` numbers rows that are not padding.
__device__ inline bool deal_whole_rows(const MlaRowPlan& plan, int32_t rows, const MlaCutting& how,
                                       const Totals& all, int32_t* heaviest,
                                       const MlaSchedule& schedule) {
  const auto thread = static_cast<int32_t>(threadIdx.x);
  const int32_t each = max((all.rows + how.parts - 1) / how.parts, 1);
  const auto cost = [&](int32_t r) { return plan.start[r + 1] - plan.start[r]; };
  const auto ends_part = [&](int32_t r) {
    return plan.ordinal[r] % each == each - 1 || plan.ordinal[r] == all.rows - 1;
  };
  for (int32_t r = thread; r < rows; r += kScheduleThreads)
    if (cost(r) > 0 && plan.ordinal[r] % each == 0) plan.begin[plan.ordinal[r] / each] = r;
  __syncthreads();
  for (int32_t r = thread; r < rows; r += kScheduleThreads)
    if (cost(r) > 0 && ends_part(r))
      atomicMax(heaviest, plan.start[r + 1] - plan.start[plan.begin[plan.ordinal[r] / each]]);
  __syncthreads();
  if (*heaviest * 8 > all.budget * 9) return false;
  const int32_t used = (all.rows + each - 1) / each;
  for (int32_t p = used + thread; p < how.parts; p += kScheduleThreads)
    schedule.parts[p] = kMlaNoPart;
  for (int32_t r = thread; r < rows; r += kScheduleThreads) {
    schedule.cuts[r] = MlaCut{0, 0, 0};
    const int32_t part = plan.ordinal[r] / each;
    if (cost(r) > 0 && ends_part(r))
      schedule.parts[part] = MlaPart{plan.begin[part], 0, r, cost(r) - how.overhead, MlaRow{}};
  }
  return true;
}

// Equal parts, cut wherever their rows may be.
__device__ inline void deal_blocks(const MlaRowPlan& plan, int32_t count, const MlaCutting& how,
                                   int32_t* shared, const MlaSchedule& schedule) {
  plan_cuts(plan, count, how, shared, schedule);
  for (auto p = static_cast<int32_t>(threadIdx.x); p < how.parts; p += kScheduleThreads) {
    const MlaPlace from = place_of_part(plan, count, how, cost_before(plan, count, how, p));
    const MlaPlace to = place_of_part(plan, count, how, cost_before(plan, count, how, p + 1));
    const bool at_end = to.row == count;
    schedule.parts[p] =
        from.row == to.row && from.tile == to.tile
            ? kMlaNoPart
            : MlaPart{from.row, from.tile, at_end ? count - 1 : to.row,
                      at_end ? max(plan.start[count] - plan.start[count - 1] - how.overhead, 0)
                             : to.tile,
                      MlaRow{}};
  }
}

// One block. Rows lie one after another on a line, a block of 64 tokens being a unit and a row's
// start `overhead` more, and the line is cut at equal distances, each cut moved to the nearest
// place where its row may be cut; unless parts of whole rows are about equal.
__global__ void __launch_bounds__(kScheduleThreads)
    mla_schedule_kernel(MlaDecodeRows rows, int32_t count, MlaCutting how, MlaSchedule schedule) {
  extern __shared__ int32_t memory[];
  __shared__ int32_t shared[kScheduleThreads / 32];
  __shared__ int32_t heaviest;
  const MlaRowPlan plan{memory, memory + count + 1, memory + 2 * count + 1, memory + 3 * count + 1};
  const auto thread = static_cast<int32_t>(threadIdx.x);
  if (thread == 0) heaviest = 0;
  let_next_kernel_start();
  wait_for_earlier_kernels();
  __syncthreads();
  for (int32_t r = thread; r < count; r += kScheduleThreads) {
    const int32_t blocks = blocks_of_row(rows, r);
    plan.start[r] = blocks == 0 ? 0 : blocks + how.overhead;
    plan.ordinal[r] = blocks == 0 ? 0 : 1;
  }
  __syncthreads();
  const int32_t real = sums_before(plan.ordinal, count, shared);
  const int32_t all = sums_before(plan.start, count, shared);
  if (thread == 0) plan.start[count] = all;
  const int32_t budget = max((all + how.parts - 1) / how.parts, 1);
  __syncthreads();
  if (!deal_whole_rows(plan, count, how, Totals{real, budget}, &heaviest, schedule))
    deal_blocks(plan, count, how, shared, schedule);
  __syncthreads();
  for (int32_t p = thread; p < how.parts; p += kScheduleThreads) {
    MlaPart& part = schedule.parts[p];
    if (part.row_begin <= part.row_end) part.row = mla_row(rows, part.row_begin);
  }
}

inline constexpr int kMergeThreads = 128;    // of a (token, head) pair
inline constexpr int kMergeResident = 1536;  // of a multiprocessor

// Where partial result `i` of a row's pair lies.
__device__ inline int64_t mla_partial_row(const MlaDecodeArgs& a, const MlaCut& cut, int32_t i,
                                          int32_t pair, int32_t tile_pairs) {
  return (int64_t{cut.first_slot + i} * a.tiles + pair / tile_pairs) * tile_pairs +
         pair % tile_pairs;
}

// One pair of a row that was cut. [partial result] of the pair in shared memory: what it is worth,
// and its weights' sum.
__device__ inline void merge_pair(const MlaDecodeArgs& a, const MlaCut& cut, int32_t row,
                                  int32_t pair, int32_t tile_pairs, const float* factor,
                                  const float* totals) {
  const auto lane = static_cast<int32_t>(threadIdx.x % kMergeThreads);
  float total = 0.0F;
  float4 sum{0.0F, 0.0F, 0.0F, 0.0F};
#pragma unroll 16
  for (int32_t i = 0; i < cut.slots; ++i) {
    const int64_t from = mla_partial_row(a, cut, i, pair, tile_pairs);
    const float4 x = reinterpret_cast<const float4*>(a.partial + from * kMlaLatent)[lane];
    const float f = factor[i];
    total = fmaf(totals[i], f, total);
    sum.x = fmaf(x.x, f, sum.x);
    sum.y = fmaf(x.y, f, sum.y);
    sum.z = fmaf(x.z, f, sum.z);
    sum.w = fmaf(x.w, f, sum.w);
  }
  const float inverse = total > 0.0F ? 1.0F / total : 0.0F;
  const int64_t to = (int64_t{a.rows.first[row]} * a.heads + pair) * kMlaLatent;
  reinterpret_cast<uint2*>(a.out + to)[lane] = uint2{pack_bf16(sum.x * inverse, sum.y * inverse),
                                                     pack_bf16(sum.z * inverse, sum.w * inverse)};
}

// Rows that were cut: the sum of their partial results in their order. Weights are relative to
// powers of two, so that bringing them together is exact and only the order of additions counts. A
// turn is kPairs pairs of a row; blocks take turns in their order. Most have nothing to do, and
// know it from the schedule while the attention runs: they end at once, but for the first block,
// whose end says that the attention's has come.
template <int kPairs>
__global__ void __launch_bounds__(kPairs* kMergeThreads, kMergeResident / kPairs / kMergeThreads)
    mla_merge_kernel(const __grid_constant__ MlaDecodeArgs a, int32_t rows, int32_t pairs_max,
                     int32_t tile_pairs) {
  __shared__ float factors[kPairs][kMlaRowSlotsMax];
  __shared__ float totals[kPairs][kMlaRowSlotsMax];
  let_next_kernel_start();
  const int32_t row_turns = (pairs_max + kPairs - 1) / kPairs;
  const int32_t turns = rows * row_turns;
  const auto blocks = static_cast<int32_t>(gridDim.x);
  const auto block = static_cast<int32_t>(blockIdx.x);
  const auto thread = static_cast<int32_t>(threadIdx.x);
  bool any = false;
  for (int32_t i = block + thread * blocks; i < turns; i += blocks * kPairs * kMergeThreads)
    any = any || a.schedule.cuts[i / row_turns].slots > 1;
  any = __syncthreads_or(any ? 1 : 0) != 0;
  if (any || block == 0) wait_for_earlier_kernels();
  if (!any) return;
  const int32_t group = thread / kMergeThreads;
  const int32_t lane = thread % kMergeThreads;
  for (int32_t turn = block; turn < turns; turn += blocks) {
    const int32_t row = turn / row_turns;
    const MlaCut cut = a.schedule.cuts[row];
    if (cut.slots <= 1) continue;
    const int32_t pair = turn % row_turns * kPairs + group;
    const bool real = pair < a.rows.query[row] * a.heads;
    float* factor = factors[group];
    if (real && lane < 32) {
      float most = -INFINITY;
      for (int32_t i = lane; i < cut.slots; i += 32) {
        const int64_t from = mla_partial_row(a, cut, i, pair, tile_pairs);
        factor[i] = a.partial_weights[2 * from];
        totals[group][i] = a.partial_weights[2 * from + 1];
        most = fmaxf(most, factor[i]);
      }
      for (int offset = 16; offset > 0; offset /= 2)
        most = fmaxf(most, __shfl_xor_sync(0xFFFFFFFFU, most, offset));
      for (int32_t i = lane; i < cut.slots; i += 32) factor[i] = power_of_two(factor[i] - most);
    }
    __syncthreads();
    if (real) merge_pair(a, cut, row, pair, tile_pairs, factor, totals[group]);
    __syncthreads();
  }
}

}  // namespace fathom::kernels
