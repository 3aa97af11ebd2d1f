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

// `index`: of items, or, where blocks work in twos, of twos of items; `rank` is this block's place
// in its two.
template <bool kPaired>
__device__ GroupedItem find_item(const GroupedArgs& a, int32_t index, int32_t rank) {
  constexpr int32_t kTiles = kPaired ? 2 : 1;
  const int32_t routed_tiles = a.schedule.counters->tiles;
  for (int32_t kind = a.first_kind; kind < a.end_kind; ++kind) {
    const int32_t row_tiles = a.sides[kind].row_tiles;
    const int32_t tiles = is_routed(kind) ? routed_tiles : a.schedule.shared_tiles;
    const int32_t items = tiles / kTiles * row_tiles;
    if (index >= items) {
      index -= items;
      continue;
    }
    const int32_t base = is_routed(kind) ? a.schedule.shared_tiles : 0;
    const GroupedTile some = a.schedule.tiles[base + index / row_tiles * kTiles];  // of its expert
    const int32_t at = index - some.expert_tile / kTiles * row_tiles;
    const int32_t side_by_side = some.expert_tiles / kTiles;
    const int32_t tile_index = base + some.expert_tile + at % side_by_side * kTiles + rank;
    const GroupedTile tile = a.schedule.tiles[tile_index];
    return {kind, tile_index, tile.expert, tile.first, tile.rows, at / side_by_side};
  }
  return {kGroupedKinds, 0, 0, 0, 0, 0};
}

// ---- Weights, and what the block works on: one warp.

template <bool kPaired>
struct GroupedFeeder {
  static constexpr int kOrders = (kGroupedRowsMax + 31) / 32;
  const GroupedArgs& a;
  GroupedShared& s;
  int lane;
  int32_t rank;
  RingPlace<kGroupedStages> at;
  RingPlace<2> place;
  RingPlace<kGroupedHanded> handed;
  GroupedItem item;
  int32_t order[kOrders];

  __device__ void find(int32_t index) {
    item = find_item<kPaired>(a, index, rank);
    const bool routed = item.kind < kGroupedKinds && is_routed(item.kind);
#pragma unroll
    for (int i = 0; i < kOrders; ++i) {
      const int32_t row = item.first + min(lane + 32 * i, max(item.rows, 1) - 1);
      order[i] = routed ? a.schedule.order[row] : row;
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

  // Asks for the next item. Of two blocks one asks and tells both.
  __device__ int32_t take() const {
    int32_t taken = 0;
    if (lane == 0 && rank == 0) {
      taken = atomicAdd(&a.schedule.counters->handed_out, 1);
      if constexpr (kPaired) {
        for (uint32_t r = 0; r < 2; ++r)
          send_word(&s.handed[handed.index], &s.handed_full[handed.index], r, taken);
      }
    }
    return taken;
  }

  // The number of the item that `take` asked for.
  __device__ int32_t taken_item(int32_t taken) {
    if constexpr (kPaired) {
      if (lane == 0) barrier_expect(&s.handed_full[handed.index], sizeof(int32_t));
      barrier_wait(&s.handed_full[handed.index], handed.phase);
      taken = s.handed[handed.index];
      handed.advance();
      return static_cast<int32_t>(gridDim.x / 2) + taken;
    }
    return static_cast<int32_t>(gridDim.x) + __shfl_sync(0xFFFFFFFFU, taken, 0);
  }

  template <Format kFormat>
  __device__ void load(const GroupedSide& side, const GroupedMatrix& w, int32_t row, int32_t k) {
    constexpr int kBlock = kFormat == Format::kFp8 ? kGroupedBytes : kGroupedBytes / 2;
    constexpr int kBox = kGroupedBox * kGroupedBytes;
    barrier_wait(&s.empty[at.index], at.phase ^ 1);
    if (lane == 0) {
      uint64_t* full = &s.full[at.index];
      barrier_expect(full, sizeof s.w[0]);
      if constexpr (kPaired) {  // a box each, for both blocks
        copy_tile_to_blocks(s.w[at.index] + rank * kBox, &w.map, full, k * kBlock,
                            row + rank * side.second_box, 3);
      } else {
        copy_tile(s.w[at.index], &w.map, full, k * kBlock, row);
        copy_tile(s.w[at.index] + kBox, &w.map, full, k * kBlock, row + side.second_box);
      }
    }
    __syncwarp();
    at.advance();
  }

  // The next item is looked for while the last stages of this one are under way.
  template <Format kFormat>
  __device__ void run() {
    constexpr int32_t kLast = 2;
    find(static_cast<int32_t>(kPaired ? blockIdx.x / 2 : blockIdx.x));
    while (true) {
      tell();
      if (item.kind == kGroupedKinds) return;
      const GroupedSide& side = a.sides[item.kind];
      const GroupedMatrix& w = side.experts[item.expert];
      const int32_t row = item.row_tile * side.box_step;
      int32_t k = 0;
      for (; k < side.k_blocks - kLast; ++k) load<kFormat>(side, w, row, k);
      const int32_t next = take();
      for (; k < side.k_blocks; ++k) load<kFormat>(side, w, row, k);
      find(taken_item(next));
    }
  }
};

// ---- Rows: what one thread copies of an item is 16 bytes of every eighth row of pairs, and the
// scales of two pairs.

template <Format kFormat, int kTileRows>
struct GroupedCopy {
  static constexpr int kEights = kTileRows / 8;
  static constexpr int kScaled = (kTileRows + kGroupedRowThreads - 1) / kGroupedRowThreads;
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

  template <int kCount>
  __device__ static void copy_eights(uint8_t* to, const uint8_t* columns,
                                     const uint32_t (&from)[kEights]) {
#pragma unroll
    for (int i = 0; i < kCount; ++i)
      copy_16_bytes(to + i * 8 * kGroupedBytes, columns + uint64_t{from[i]} * 16);
  }

  __device__ static void copy_rows(uint8_t* to, const uint8_t* columns,
                                   const uint32_t (&from)[kEights], int eights) {
    if (eights > 16) return copy_eights<kEights>(to, columns, from);
    if (eights == 16) return copy_eights<16>(to, columns, from);
#pragma unroll
    for (int i = 0; i < 14; ++i)
      if (i < eights) copy_16_bytes(to + i * 8 * kGroupedBytes, columns + uint64_t{from[i]} * 16);
  }

  __device__ void load(const GroupedShared::Slot& slot) {
    const GroupedItem item = slot.item;
    const GroupedSide& side = a.sides[item.kind];
    const int32_t row = item.row_tile * side.box_step;
    const int rows = max(item.rows, 1);
    const int eights = (rows + 15) / 16 * 2;
    const int to = thread / 8 * kGroupedBytes + ((thread % 8) ^ (thread / 8)) * 16;
    const auto x_row = [&](int i) {
      return side.x_divisor == 0 ? item.first + min(i, rows - 1) : slot.order[i] / side.x_divisor;
    };
    uint32_t from[kEights];
#pragma unroll
    for (int i = 0; i < kEights; ++i)
      from[i] = static_cast<uint32_t>(x_row(8 * i + thread / 8)) * side.x_words + thread % 8;
    const uint8_t* x = side.x;
    const int32_t k_blocks = side.k_blocks;
    bool scaled[kScaled];
    const float* x_scale[kScaled];
    const float* w_scale = nullptr;  // of two threads
#pragma unroll
    for (int i = 0; i < kScaled; ++i) {
      const int at_row = thread + i * kGroupedRowThreads;
      scaled[i] = kFormat == Format::kFp8 && at_row < 8 * eights;
      x_scale[i] = side.x_scales;
      if (scaled[i]) x_scale[i] += x_row(at_row) * side.x_scale_stride;
    }
    if (kFormat == Format::kFp8 && thread < 2) {
      const GroupedMatrix& w = side.experts[item.expert];
      const bool second = thread == 1 && row + side.second_box < side.rows_end;
      w_scale = w.scales + (row + (second ? side.second_box : 0)) / 128 * w.scale_stride;
    }
    wait_for_rows(item);
    for (int32_t k = 0; k < k_blocks; ++k, at.advance()) {
      barrier_wait(&s.empty[at.index], at.phase ^ 1);
      copy_rows(s.x[at.index] + to, x + k * kGroupedBytes, from, eights);
#pragma unroll
      for (int i = 0; i < kScaled; ++i) {
        if (scaled[i])
          copy_4_bytes(&s.x_scales[at.index][thread + i * kGroupedRowThreads], x_scale[i] + k);
      }
      if (kFormat == Format::kFp8 && thread < 2)
        copy_4_bytes(&s.w_scales[at.index][thread], w_scale + k);
      barrier_arrive_after_copies(&s.full[at.index]);
    }
  }

  __device__ void run() {
    RingPlace<2> place;
    while (true) {
      barrier_wait(&s.slot_full[place.index], place.phase);
      const GroupedShared::Slot& slot = s.slots[place.index];
      if (slot.item.kind == kGroupedKinds) break;
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
    if (item.kind == kGroupedKinds) return;
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
                              const GroupedShared::Slot& slot, const StageReader<kFormat>& reader) {
  WideMath<kFormat, kTokens> m{reader, static_cast<int>(threadIdx.x / 128),
                               static_cast<int>(threadIdx.x % 4 * 2)};
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
                              const GroupedShared::Slot& slot, const StageReader<kFormat>& reader) {
  TallMath<kFormat> m{reader, __shfl_sync(0xFFFFFFFFU, static_cast<int>(threadIdx.x / 128), 0),
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

template <int kTokens>
__device__ void multiply_split(const GroupedSide& side, GroupedShared& s,
                               const GroupedShared::Slot& slot,
                               const StageReader<Format::kFp8>& reader) {
  const int group = __shfl_sync(0xFFFFFFFFU, static_cast<int>(threadIdx.x / 128), 0);
  const SplitMath<kTokens> m{reader, group,
                             group * kTokens + static_cast<int>(threadIdx.x % 4 * 2)};
  float sums[4][kTokens / 2];
  m.run(side.k_blocks, sums);
  if (is_gated(slot.item.kind)) {
    store_split<kTokens, true>(side, s, slot, sums);
  } else {
    store_split<kTokens, false>(side, s, slot, sums);
  }
}

// Tiles of two blocks that work together may be larger than 128 rows.
template <Format kFormat>
__device__ void multiply_large(const GroupedSide& side, GroupedShared& s,
                               const GroupedShared::Slot& slot,
                               const StageReader<kFormat>& reader) {
  if constexpr (kFormat == Format::kFp8) {
    multiply_split<kPairedTileRows / 2>(side, s, slot, reader);
  } else {
    multiply_wide<kFormat, kPairedTileRows>(side, s, slot, reader);
  }
}

template <Format kFormat, bool kPaired>
__device__ void grouped_multiply(const GroupedArgs& a, GroupedShared& s, uint32_t peer_empty) {
  RingPlace<kGroupedStages> at;
  RingPlace<2> place;
  const StageReader<kFormat> reader{s, at, peer_empty};
  while (true) {
    barrier_wait(&s.slot_full[place.index], place.phase);
    const GroupedShared::Slot& slot = s.slots[place.index];
    // Known to be one for the warp, as the warpgroup's number is: descriptors need no detour.
    const int sixteens = __shfl_sync(0xFFFFFFFFU, (slot.item.rows + 15) / 16, 0);
    const int kind = __shfl_sync(0xFFFFFFFFU, slot.item.kind, 0);
    if (kind == kGroupedKinds) return;
    const GroupedSide& side = a.sides[kind];
    switch (sixteens) {
      case 0:
      case 1: multiply_wide<kFormat, 16>(side, s, slot, reader); break;
      case 2: multiply_wide<kFormat, 32>(side, s, slot, reader); break;
      case 3: multiply_wide<kFormat, 48>(side, s, slot, reader); break;
      case 4: multiply_wide<kFormat, 64>(side, s, slot, reader); break;
      case 5: multiply_wide<kFormat, 80>(side, s, slot, reader); break;
      case 6: multiply_wide<kFormat, 96>(side, s, slot, reader); break;
      case 7: multiply_wide<kFormat, 112>(side, s, slot, reader); break;
      case 8: multiply_tall<kFormat>(side, s, slot, reader); break;
      default:
        if constexpr (kPaired) multiply_large<kFormat>(side, s, slot, reader);
        break;
    }
    barrier_arrive_of_warp<true>(&s.slot_empty[place.index]);
    place.advance();
  }
}

template <Format kFormat, bool kPaired>
__device__ void grouped_barriers(GroupedShared& s) {
  for (int i = 0; i < kGroupedStages; ++i) {
    barrier_init(&s.full[i], 1 + kGroupedRowThreads);  // weights; rows and scales
    constexpr int kHere = kWarpArrivals<StageReader<kFormat>::kEachLane>;
    barrier_init(&s.empty[i], kGroupedMathThreads / 32 * (kHere + (kPaired ? 1 : 0)));
  }
  for (int i = 0; i < 2; ++i) {
    barrier_init(&s.slot_full[i], 32);
    barrier_init(&s.slot_empty[i], kGroupedMathThreads + 1);
  }
  for (int i = 0; i < kGroupedHanded; ++i) barrier_init(&s.handed_full[i], 1);
  barrier_init_done();
}

// All of a block's threads; of the pair's, where blocks work in twos.
template <bool kPaired>
__device__ inline void grouped_meet() {
  if constexpr (kPaired) {
    __syncwarp();
    cluster_arrive();
    cluster_wait();
  } else {
    __syncthreads();
  }
}

template <Format kFormat, bool kPaired>
__device__ __forceinline__ void grouped_block(const GroupedArgs& a) {
  extern __shared__ uint8_t raw[];
  auto& s = *reinterpret_cast<GroupedShared*>(raw + (0U - shared_address(raw)) % 1024U);
  if (threadIdx.x == 0) grouped_barriers<kFormat, kPaired>(s);
  let_next_kernel_start();
  grouped_meet<kPaired>();
  wait_for_earlier_kernels();
  const uint32_t rank = kPaired ? cluster_rank() : 0;
  if (threadIdx.x < kGroupedMathThreads) {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 224;");
    grouped_multiply<kFormat, kPaired>(a, s, kPaired ? cluster_address(s.empty, rank ^ 1U) : 0);
  } else {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 56;");
    constexpr int kTileRows = kPaired ? kPairedTileRows : kGroupedTileRows;
    const auto thread = static_cast<int>(threadIdx.x) - kGroupedMathThreads;
    if (thread < kGroupedRowThreads) {
      GroupedCopy<kFormat, kTileRows>{a, s, thread, {}}.run();
    } else if (thread < kGroupedRowThreads + 32) {
      GroupedFeeder<kPaired>{a, s, thread % 32, static_cast<int32_t>(rank), {}, {}, {}, {}, {}}
          .template run<kFormat>();
    } else if (thread == kGroupedRowThreads + 32) {
      report_done(a, s);
    }
  }
  if constexpr (kPaired) grouped_meet<kPaired>();  // the other still writes here
}

template <Format kFormat>
__global__ void __launch_bounds__(kGroupedThreads, 1)
    grouped_kernel(const __grid_constant__ GroupedArgs a) {
  grouped_block<kFormat, false>(a);
}

template <Format kFormat>
__global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(kGroupedThreads, 1)
    paired_kernel(const __grid_constant__ GroupedArgs a) {
  grouped_block<kFormat, true>(a);
}

}  // namespace fathom::kernels
