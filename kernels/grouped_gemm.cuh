// The grouped product's kernel. Blocks stay, and each works through its share of the items: a tile
// of at most 128 pairs of one expert by two boxes of 128 rows of its matrix. A warpgroup copies
// (weights by the copy engine, rows by index, scales), two multiply. A full tile's pairs are the
// rows of the tensor core's product, a smaller one's its columns, in steps of 16. A sum's order
// over K is the same in every tile, so a pair's result does not depend on its neighbours.
#pragma once

#include "grouped_math.cuh"
#include "grouped_store.cuh"

namespace fathom::kernels {

// ---- Copying.

// Items are in the order of experts, then of the matrix's rows, then of pairs: blocks that run at
// one time share weights.
__device__ inline GroupedItem find_item(const GroupedArgs& a, int32_t index) {
  if (index >= *a.tile_count * a.row_tiles) return {0, 0, 0, 0};
  const GroupedTile some = a.tiles[index / a.row_tiles];  // of the same expert
  const int32_t at = index - some.expert_tile * a.row_tiles;
  const GroupedTile tile = a.tiles[some.expert_tile + at % some.expert_tiles];
  return {tile.expert, tile.first, tile.rows, at / some.expert_tiles};
}

// What one thread copies of an item: 16 bytes of every sixteenth row of pairs, and the scales of
// one pair; one thread the weights too.
template <Format kFormat>
struct GroupedCopy {
  static constexpr int kRowsEach = kGroupedTileRows / 16;
  const GroupedArgs& a;
  GroupedShared& s;
  int thread;
  RingPlace<kGroupedStages> at;

  __device__ int32_t x_row(const GroupedItem& item, const GroupedShared::Slot& slot, int i) const {
    return a.x_in_order ? item.first + min(i, item.rows - 1) : slot.order[i] / a.x_divisor;
  }

  __device__ void load_weights(const GroupedMatrix& w, int32_t row, int32_t k) {
    constexpr int kBlock = kFormat == Format::kFp8 ? kGroupedBytes : kGroupedBytes / 2;
    uint64_t* full = &s.full[at.index];
    barrier_expect(full, sizeof s.w[0]);
    copy_tile(s.w[at.index], &w.map, full, k * kBlock, row);
    copy_tile(s.w[at.index] + kGroupedBox * kGroupedBytes, &w.map, full, k * kBlock,
              row + a.second_box);
  }

  __device__ void load(const GroupedItem& item, const GroupedShared::Slot& slot) {
    const GroupedMatrix& w = a.experts[item.expert];
    const int32_t row = a.first_row + item.row_tile * a.box_step;
    const int sixteens = (item.rows + 15) / 16;
    const int to = thread / 8 * kGroupedBytes + ((thread % 8) ^ (thread / 8 % 8)) * 16;
    uint32_t from[kRowsEach];
#pragma unroll
    for (int i = 0; i < kRowsEach; ++i) {
      from[i] =
          static_cast<uint32_t>(x_row(item, slot, 16 * i + thread / 8)) * a.x_words + thread % 8;
    }
    const bool scaled = kFormat == Format::kFp8 && thread < 16 * sixteens;
    const float* x_scale = a.x_scales;
    const float* w_scale = w.scales;
    float next[3] = {};
    if (scaled) {
      x_scale += x_row(item, slot, thread) * a.x_scale_stride;
      w_scale += row / 128 * w.scale_stride;
    }
    const int64_t second =
        row + a.second_box < a.rows_end ? a.second_box / 128 * w.scale_stride : 0;
    const auto read_scales = [&](int32_t k) {
      next[0] = x_scale[k];
      next[1] = w_scale[k];
      next[2] = w_scale[second + k];
    };
    if (scaled) read_scales(0);
    for (int32_t k = 0; k < a.k_blocks; ++k, at.advance()) {
      barrier_wait(&s.empty[at.index], at.phase ^ 1);
      if (thread == 0) load_weights(w, row, k);
#pragma unroll
      for (int i = 0; i < kRowsEach; ++i) {
        if (i < sixteens) {
          copy_16_bytes(s.x[at.index] + to + i * 16 * kGroupedBytes,
                        a.x + (uint64_t{from[i]} * 16 + k * kGroupedBytes));
        }
      }
      barrier_arrive_after_copies(&s.full[at.index]);
      if constexpr (kFormat == Format::kFp8) {
        s.scales[at.index][0][thread] = next[0] * next[1];
        s.scales[at.index][1][thread] = next[0] * next[2];
        __syncwarp();
        if (thread % 32 == 0) barrier_arrive(&s.full[at.index]);
        if (scaled && k + 1 < a.k_blocks) read_scales(k + 1);
      }
    }
  }
};

template <Format kFormat>
__device__ void grouped_copy(const GroupedArgs& a, GroupedShared& s) {
  GroupedCopy<kFormat> copy{a, s, static_cast<int>(threadIdx.x) - kGroupedMathThreads, {}};
  RingPlace<2> place;
  for (auto index = static_cast<int32_t>(blockIdx.x);; index += static_cast<int32_t>(gridDim.x)) {
    const GroupedItem item = find_item(a, index);
    barrier_wait(&s.slot_empty[place.index], place.phase ^ 1);
    GroupedShared::Slot& slot = s.slots[place.index];
    if (copy.thread == 0) slot.item = item;
    if (item.rows > 0)
      slot.order[copy.thread] = a.order[item.first + min(copy.thread, item.rows - 1)];
    barrier_arrive(&s.slot_full[place.index]);
    if (item.rows == 0) break;
    meet<2, kGroupedCopyThreads>();
    copy.load(item, slot);
    place.advance();
  }
  asm volatile("cp.async.wait_all;" ::: "memory");
}

// ---- Items.

template <Format kFormat, bool kGated, int kTokens>
__device__ void multiply_wide(const GroupedArgs& a, GroupedShared& s,
                              const GroupedShared::Slot& slot, RingPlace<kGroupedStages>& at) {
  WideMath<kFormat, kTokens> m{
      {s, at}, static_cast<int>(threadIdx.x / 128), static_cast<int>(threadIdx.x % 4 * 2)};
  float first[kTokens / 2];
  float second[kTokens / 2];
  if constexpr (kFormat == Format::kFp8) {
    multiply_scaled<decltype(m), float2, kTokens / 8>(m, a.k_blocks, first, second);
  } else {
    multiply_exact(m, a.k_blocks, first, second);
  }
  if constexpr (kGated) {
    store_gated<kFormat, kTokens>(a, s, slot.item, first, second);
  } else {
    store_box<kTokens>(a, s, slot, 0, first);
    store_box<kTokens>(a, s, slot, 1, second);
  }
}

template <Format kFormat, bool kGated>
__device__ void multiply_tall(const GroupedArgs& a, GroupedShared& s,
                              const GroupedShared::Slot& slot, RingPlace<kGroupedStages>& at) {
  TallMath<kFormat> m{{s, at},
                      __shfl_sync(0xFFFFFFFFU, static_cast<int>(threadIdx.x / 128), 0),
                      static_cast<int>(threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4)};
  float first[64];
  float second[64];
  if constexpr (kFormat == Format::kFp8) {
    multiply_scaled<TallMath<kFormat>, typename TallMath<kFormat>::Scales, 1>(m, a.k_blocks, first,
                                                                              second);
  } else {
    multiply_exact(m, a.k_blocks, first, second);
  }
  store_tall<kFormat, kGated>(a, s, slot, first, second);
}

template <Format kFormat, bool kGated>
__device__ void grouped_multiply(const GroupedArgs& a, GroupedShared& s) {
  RingPlace<kGroupedStages> at;
  RingPlace<2> place;
  while (true) {
    barrier_wait(&s.slot_full[place.index], place.phase);
    const GroupedShared::Slot& slot = s.slots[place.index];
    // Known to be one for the warp, as the warpgroup's number is: descriptors need no detour.
    switch (__shfl_sync(0xFFFFFFFFU, (slot.item.rows + 15) / 16, 0)) {
      case 0: return;
      case 1: multiply_wide<kFormat, kGated, 16>(a, s, slot, at); break;
      case 2: multiply_wide<kFormat, kGated, 32>(a, s, slot, at); break;
      case 3: multiply_wide<kFormat, kGated, 48>(a, s, slot, at); break;
      case 4: multiply_wide<kFormat, kGated, 64>(a, s, slot, at); break;
      case 5: multiply_wide<kFormat, kGated, 80>(a, s, slot, at); break;
      case 6: multiply_wide<kFormat, kGated, 96>(a, s, slot, at); break;
      case 7: multiply_wide<kFormat, kGated, 112>(a, s, slot, at); break;
      default: multiply_tall<kFormat, kGated>(a, s, slot, at); break;
    }
    __syncwarp();
    if (threadIdx.x % 32 == 0) barrier_arrive(&s.slot_empty[place.index]);
    place.advance();
  }
}

template <Format kFormat, bool kGated>
__global__ void __launch_bounds__(kGroupedThreads, 1)
    grouped_kernel(const __grid_constant__ GroupedArgs a) {
  extern __shared__ uint8_t raw[];
  auto& s = *reinterpret_cast<GroupedShared*>(raw + (0U - shared_address(raw)) % 1024U);
  if (threadIdx.x == 0) {
    for (int i = 0; i < kGroupedStages; ++i) {
      // The weights' thread, every copying thread's rows, and its warps' scales.
      barrier_init(&s.full[i], 1 + kGroupedCopyThreads +
                                   (kFormat == Format::kFp8 ? kGroupedCopyThreads / 32 : 0));
      barrier_init(&s.empty[i], kGroupedMathThreads / 32);
    }
    for (int i = 0; i < 2; ++i) {
      barrier_init(&s.slot_full[i], kGroupedCopyThreads);
      barrier_init(&s.slot_empty[i], kGroupedMathThreads / 32);
    }
    barrier_init_done();
  }
  __syncthreads();
  if (threadIdx.x < kGroupedMathThreads) {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    grouped_multiply<kFormat, kGated>(a, s);
  } else {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    grouped_copy<kFormat>(a, s);
  }
}

}  // namespace fathom::kernels
