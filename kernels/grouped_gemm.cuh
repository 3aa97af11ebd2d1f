// The grouped products' kernel. Blocks stay, and take items as they come free: a tile of at most
// 128 pairs of one expert by two boxes of 128 rows of its matrix, first of gate and up, then of
// down, which waits for the inner rows of its tile. A warpgroup copies (weights by the copy engine,
// rows by index, scales) and reports, two multiply. A full tile's pairs are the rows of the tensor
// core's product, a smaller one's its columns, in steps of 16. A sum's order over K is the same in
// every tile, so a pair's result does not depend on its neighbours.
#pragma once

#include "grouped_math.cuh"
#include "grouped_store.cuh"

namespace fathom::kernels {

// ---- Items: by kind, of a kind in the order of experts, then of the matrix's rows, then of pairs:
// blocks that run at one time share weights.

__device__ inline GroupedItem find_item(const GroupedArgs& a, int32_t index) {
  const int32_t routed_tiles = a.schedule.counters->tiles;
  for (int32_t kind = a.first_kind; kind < a.end_kind; ++kind) {
    const int32_t row_tiles = a.sides[kind].row_tiles;
    const int32_t items = (is_routed(kind) ? routed_tiles : a.schedule.shared_tiles) * row_tiles;
    if (index >= items) {
      index -= items;
      continue;
    }
    const int32_t base = is_routed(kind) ? a.schedule.shared_tiles : 0;
    const GroupedTile some = a.schedule.tiles[base + index / row_tiles];  // of the same expert
    const int32_t at = index - some.expert_tile * row_tiles;
    const int32_t tile_index = base + some.expert_tile + at % some.expert_tiles;
    const GroupedTile tile = a.schedule.tiles[tile_index];
    return {kind, tile_index, tile.expert, tile.first, tile.rows, at / some.expert_tiles};
  }
  return {0, 0, 0, 0, 0, 0};
}

// ---- Weights, and what the block works on: one warp.

struct GroupedFeeder {
  static constexpr int kOrders = kGroupedTileRows / 32;
  const GroupedArgs& a;
  GroupedShared& s;
  int lane;
  RingPlace<kGroupedStages> at;
  RingPlace<2> place;
  GroupedItem item;
  int32_t order[kOrders];

  __device__ void find(int32_t index) {
    item = find_item(a, index);
#pragma unroll
    for (int i = 0; i < kOrders; ++i) {
      const int32_t row = item.first + min(lane + 32 * i, item.rows - 1);
      order[i] = item.rows > 0 && is_routed(item.kind) ? a.schedule.order[row] : row;
    }
  }

  __device__ void tell() {
    barrier_wait(&s.slot_empty[place.index], place.phase ^ 1);
    GroupedShared::Slot& slot = s.slots[place.index];
    if (lane == 0) slot.item = item;
#pragma unroll
    for (int i = 0; i < kOrders; ++i) slot.order[lane + 32 * i] = order[i];
    barrier_arrive(&s.slot_full[place.index]);
    place.advance();
  }

  __device__ int32_t take() const {
    int32_t taken = 0;
    if (lane == 0) taken = atomicAdd(&a.schedule.counters->handed_out, 1);
    return static_cast<int32_t>(gridDim.x) + __shfl_sync(0xFFFFFFFFU, taken, 0);
  }

  template <Format kFormat>
  __device__ void load(const GroupedSide& side, const GroupedMatrix& w, int32_t row, int32_t k) {
    constexpr int kBlock = kFormat == Format::kFp8 ? kGroupedBytes : kGroupedBytes / 2;
    barrier_wait(&s.empty[at.index], at.phase ^ 1);
    if (lane == 0) {
      uint64_t* full = &s.full[at.index];
      barrier_expect(full, sizeof s.w[0]);
      copy_tile(s.w[at.index], &w.map, full, k * kBlock, row);
      copy_tile(s.w[at.index] + kGroupedBox * kGroupedBytes, &w.map, full, k * kBlock,
                row + side.second_box);
    }
    __syncwarp();
    at.advance();
  }

  // The next item is looked for while the last stages of this one are under way.
  template <Format kFormat>
  __device__ void run() {
    constexpr int32_t kLast = 2;
    find(static_cast<int32_t>(blockIdx.x));
    while (true) {
      tell();
      if (item.rows == 0) return;
      const GroupedSide& side = a.sides[item.kind];
      const GroupedMatrix& w = side.experts[item.expert];
      const int32_t row = item.row_tile * side.box_step;
      int32_t k = 0;
      for (; k < side.k_blocks - kLast; ++k) load<kFormat>(side, w, row, k);
      const int32_t next = take();
      for (; k < side.k_blocks; ++k) load<kFormat>(side, w, row, k);
      find(next);
    }
  }
};

// ---- Rows: what one thread copies of an item is 16 bytes of every eighth row of pairs, and the
// scales of two pairs.

template <Format kFormat>
struct GroupedCopy {
  static constexpr int kEights = kGroupedTileRows / 8;
  const GroupedArgs& a;
  GroupedShared& s;
  int thread;
  RingPlace<kGroupedStages> at;

  // Inner rows are there when all items that write them are done.
  __device__ void wait_for_rows(const GroupedItem& item) const {
    if (is_gated(item.kind) || a.first_kind >= kSharedDown) return;
    const int32_t wanted = a.sides[item.kind - kSharedDown].row_tiles;
    if (thread % 32 == 0) {
      int32_t done = 0;
      while (true) {
        asm volatile("ld.acquire.gpu.global.s32 %0, [%1];"
                     : "=r"(done)
                     : "l"(a.schedule.done + item.tile)
                     : "memory");
        if (done >= wanted) break;
        __nanosleep(100);
      }
    }
    __syncwarp();
  }

  __device__ void load(const GroupedShared::Slot& slot) {
    const GroupedItem item = slot.item;
    const GroupedSide& side = a.sides[item.kind];
    const int32_t row = item.row_tile * side.box_step;
    const int eights = (item.rows + 15) / 16 * 2;
    const int to = thread / 8 * kGroupedBytes + ((thread % 8) ^ (thread / 8)) * 16;
    const auto x_row = [&](int i) {
      return side.x_divisor == 0 ? item.first + min(i, item.rows - 1)
                                 : slot.order[i] / side.x_divisor;
    };
    uint32_t from[kEights];
#pragma unroll
    for (int i = 0; i < kEights; ++i)
      from[i] = static_cast<uint32_t>(x_row(8 * i + thread / 8)) * side.x_words + thread % 8;
    const uint8_t* x = side.x;
    const int32_t k_blocks = side.k_blocks;
    const bool scaled[2] = {kFormat == Format::kFp8 && thread < 8 * eights,
                            kFormat == Format::kFp8 && thread + 64 < 8 * eights};
    const float* x_scale[2] = {side.x_scales, side.x_scales};
    const float* w_scale = nullptr;
    int64_t second = 0;
    float next[4] = {};
    if (scaled[0]) {
      const GroupedMatrix& w = side.experts[item.expert];
      x_scale[0] += x_row(thread) * side.x_scale_stride;
      x_scale[1] += x_row(thread + 64) * side.x_scale_stride;
      w_scale = w.scales + row / 128 * w.scale_stride;
      if (row + side.second_box < side.rows_end) second = side.second_box / 128 * w.scale_stride;
    }
    wait_for_rows(item);
    const auto read_scales = [&](int32_t k) {
      next[0] = __ldcg(x_scale[0] + k);
      if (scaled[1]) next[1] = __ldcg(x_scale[1] + k);
      next[2] = w_scale[k];
      next[3] = w_scale[second + k];
    };
    if (scaled[0]) read_scales(0);
    for (int32_t k = 0; k < k_blocks; ++k, at.advance()) {
      barrier_wait(&s.empty[at.index], at.phase ^ 1);
#pragma unroll
      for (int i = 0; i < kEights; ++i) {
        if (i < eights) {
          copy_16_bytes(s.x[at.index] + to + i * 8 * kGroupedBytes,
                        x + (uint64_t{from[i]} * 16 + k * kGroupedBytes));
        }
      }
      barrier_arrive_after_copies(&s.full[at.index]);
      if constexpr (kFormat == Format::kFp8) {
        s.scales[at.index][0][thread] = next[0] * next[2];
        s.scales[at.index][1][thread] = next[0] * next[3];
        if (scaled[1]) {
          s.scales[at.index][0][thread + 64] = next[1] * next[2];
          s.scales[at.index][1][thread + 64] = next[1] * next[3];
        }
        __syncwarp();
        if (thread % 32 == 0) barrier_arrive(&s.full[at.index]);
        if (scaled[0] && k + 1 < k_blocks) read_scales(k + 1);
      }
    }
  }

  __device__ void run() {
    RingPlace<2> place;
    while (true) {
      barrier_wait(&s.slot_full[place.index], place.phase);
      const GroupedShared::Slot& slot = s.slots[place.index];
      if (slot.item.rows == 0) break;
      load(slot);
      place.advance();
    }
    asm volatile("cp.async.wait_all;" ::: "memory");
  }
};

// ---- Reports: one thread makes an item's inner rows known to the blocks that read them.

__device__ inline void report_done(const GroupedArgs& a, GroupedShared& s) {
  RingPlace<2> place;
  while (true) {
    barrier_wait(&s.slot_full[place.index], place.phase);
    const GroupedItem item = s.slots[place.index].item;
    if (item.rows == 0) return;
    barrier_arrive(&s.slot_empty[place.index]);
    barrier_wait(&s.slot_empty[place.index], place.phase);
    if (is_gated(item.kind)) {
      __threadfence();
      atomicAdd(a.schedule.done + item.tile, 1);
    }
    place.advance();
  }
}

// ---- Products.

template <Format kFormat, int kTokens>
__device__ void multiply_wide(const GroupedSide& side, GroupedShared& s,
                              const GroupedShared::Slot& slot, RingPlace<kGroupedStages>& at) {
  WideMath<kFormat, kTokens> m{
      {s, at}, static_cast<int>(threadIdx.x / 128), static_cast<int>(threadIdx.x % 4 * 2)};
  float first[kTokens / 2];
  float second[kTokens / 2];
  if constexpr (kFormat == Format::kFp8) {
    multiply_scaled<decltype(m), float2, kTokens / 8>(m, side.k_blocks, first, second);
  } else {
    multiply_exact(m, side.k_blocks, first, second);
  }
  if (is_gated(slot.item.kind)) {
    store_gated<kFormat, kTokens>(side, s, slot.item, first, second);
  } else {
    store_box<kTokens>(side, s, slot, 0, first);
    store_box<kTokens>(side, s, slot, 1, second);
  }
}

template <Format kFormat>
__device__ void multiply_tall(const GroupedSide& side, GroupedShared& s,
                              const GroupedShared::Slot& slot, RingPlace<kGroupedStages>& at) {
  TallMath<kFormat> m{{s, at},
                      __shfl_sync(0xFFFFFFFFU, static_cast<int>(threadIdx.x / 128), 0),
                      static_cast<int>(threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4)};
  float sums[128];
  auto& first = reinterpret_cast<float(&)[64]>(sums[0]);
  auto& second = reinterpret_cast<float(&)[64]>(sums[64]);
  if constexpr (kFormat == Format::kFp8) {
    multiply_scaled<TallMath<kFormat>, typename TallMath<kFormat>::Scales, 1>(m, side.k_blocks,
                                                                              first, second);
  } else {
    multiply_both(m, side.k_blocks, sums);
  }
  if (is_gated(slot.item.kind)) {
    store_tall<kFormat, true>(side, s, slot, first, second);
  } else {
    store_tall<kFormat, false>(side, s, slot, first, second);
  }
}

template <Format kFormat>
__device__ void grouped_multiply(const GroupedArgs& a, GroupedShared& s) {
  RingPlace<kGroupedStages> at;
  RingPlace<2> place;
  while (true) {
    barrier_wait(&s.slot_full[place.index], place.phase);
    const GroupedShared::Slot& slot = s.slots[place.index];
    // Known to be one for the warp, as the warpgroup's number is: descriptors need no detour.
    const int sixteens = __shfl_sync(0xFFFFFFFFU, (slot.item.rows + 15) / 16, 0);
    const GroupedSide& side = a.sides[__shfl_sync(0xFFFFFFFFU, slot.item.kind, 0)];
    switch (sixteens) {
      case 0: return;
      case 1: multiply_wide<kFormat, 16>(side, s, slot, at); break;
      case 2: multiply_wide<kFormat, 32>(side, s, slot, at); break;
      case 3: multiply_wide<kFormat, 48>(side, s, slot, at); break;
      case 4: multiply_wide<kFormat, 64>(side, s, slot, at); break;
      case 5: multiply_wide<kFormat, 80>(side, s, slot, at); break;
      case 6: multiply_wide<kFormat, 96>(side, s, slot, at); break;
      case 7: multiply_wide<kFormat, 112>(side, s, slot, at); break;
      default: multiply_tall<kFormat>(side, s, slot, at); break;
    }
    __syncwarp();
    if (threadIdx.x % 32 == 0) barrier_arrive(&s.slot_empty[place.index]);
    place.advance();
  }
}

template <Format kFormat>
__device__ void grouped_barriers(GroupedShared& s) {
  for (int i = 0; i < kGroupedStages; ++i) {
    // The weights' thread, every copying thread's rows, and its warps' scales.
    barrier_init(&s.full[i],
                 1 + kGroupedRowThreads + (kFormat == Format::kFp8 ? kGroupedRowThreads / 32 : 0));
    barrier_init(&s.empty[i], kGroupedMathThreads / 32);
  }
  for (int i = 0; i < 2; ++i) {
    barrier_init(&s.slot_full[i], 32);
    barrier_init(&s.slot_empty[i], kGroupedMathThreads / 32 + 1);
  }
  barrier_init_done();
}

template <Format kFormat>
__global__ void __launch_bounds__(kGroupedThreads, 1)
    grouped_kernel(const __grid_constant__ GroupedArgs a) {
  extern __shared__ uint8_t raw[];
  auto& s = *reinterpret_cast<GroupedShared*>(raw + (0U - shared_address(raw)) % 1024U);
  if (threadIdx.x == 0) grouped_barriers<kFormat>(s);
  let_next_kernel_start();
  __syncthreads();
  wait_for_earlier_kernels();
  if (threadIdx.x < kGroupedMathThreads) {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 224;");
    grouped_multiply<kFormat>(a, s);
  } else {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 56;");
    const auto thread = static_cast<int>(threadIdx.x) - kGroupedMathThreads;
    if (thread < kGroupedRowThreads) {
      GroupedCopy<kFormat>{a, s, thread, {}}.run();
    } else if (thread < kGroupedRowThreads + 32) {
      GroupedFeeder{a, s, thread % 32, {}, {}, {}, {}}.run<kFormat>();
    } else if (thread == kGroupedRowThreads + 32) {
      report_done(a, s);
    }
  }
}

}  // namespace fathom::kernels
