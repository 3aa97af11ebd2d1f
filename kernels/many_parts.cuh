// What the parts of the product of many rows share: its arguments, a block's shared memory, its
// items.
#pragma once

#include <cuda_bf16.h>

#include "cluster_copy.cuh"
#include "many_gemm.h"
#include "ring_place.cuh"

namespace fathom::kernels {

constexpr int kManyMathThreads = 256;
constexpr int kManyThreads = 384;
constexpr int kManyBox = 128;    // rows of W
constexpr int kManyBytes = 128;  // of a row, in one stage
constexpr int kManyWBytes = 2 * kManyBox * kManyBytes;
constexpr int kManyXBytes = kManyTileRows * kManyBytes;
constexpr int kManyStagePitch = 72;  // columns of staged bf16 rows of a warpgroup, padded

struct ManyMaps {
  CUtensorMap w;         // boxes of 128 rows by 128 bytes
  CUtensorMap x;         // likewise
  CUtensorMap x_scales;  // boxes of 128 rows by a scale a stage
};

struct ManyArgs {
  const float* w_scales = nullptr;
  int64_t w_scale_stride = 0;
  int32_t rows = 0;
  int32_t columns = 0;  // of `out`
  int32_t k_blocks = 0;
  int32_t row_units = 0;  // twos of tiles of rows
  int32_t column_tiles = 0;
  int32_t items = 0;
  int32_t band = 0;        // units
  int32_t box_step = 0;    // rows of W from one tile to the next
  int32_t second_box = 0;  // rows of W from a tile's first box to its second
  int32_t w_blocks = 0;    // of 128 rows of W
  ManySplit split;
  float4* sums = nullptr;     // [shared items, 2 blocks, 8 warps, 32, 32 lanes]
  uint32_t* words = nullptr;  // [shared items, 2 blocks, 8 warps]
  Epilogue out;
  float* scales_by_group = nullptr;  // [column tiles, rows], or none
  float* peaks = nullptr;            // [rows, peak_stride], or none
  int64_t peak_stride = 0;
};

struct ManyShared {
  uint8_t w[kManyStages][kManyWBytes];
  uint8_t x[kManyStages][kManyXBytes];
  __nv_bfloat16 staged[2][64 * kManyStagePitch];
  // Of a turn of the ring, the next turn's beside it.
  alignas(128) float x_scales[2][kManyTileRows][kManyStages];
  alignas(16) float w_scales[2][2][kManyStages];  // of the boxes
  uint64_t full[kManyStages];
  uint64_t empty[kManyStages];
};
constexpr size_t kManySharedBytes = sizeof(ManyShared) + 1024;
static_assert(kManySharedBytes <= 232448);

// Of a turn's last stage every lane says that it is done, as scales of the turn are read by all
// (barrier_arrive_of_warp); of the others, which tensor cores read, one for its warp.
constexpr bool many_reads_scales(int stage) { return stage == kManyStages - 1; }

// What a block works on.
struct ManyItem {
  int32_t row_unit;
  int32_t column_tile;
};

// In bands of rows; within one by columns, then by rows: blocks that run at one time share tiles of
// W and the band's rows of x.
__device__ inline ManyItem many_item(const ManyArgs& a, int32_t index) {
  const int32_t whole = a.band * a.column_tiles;
  const int32_t first = index / whole * a.band;
  const int32_t units = min(a.band, a.row_units - first);
  const int32_t at = index - index / whole * whole;
  return {first + at % units, at / units};
}

// This block's n-th part of an item. Made anew from n: kept beside a tile's sums, what is known of
// it would be more than there are registers.
__device__ inline ManyPart many_part(const ManyArgs& a, int32_t n) {
  return many_part(a.split, static_cast<int32_t>(blockIdx.x) / 2,
                   static_cast<int32_t>(gridDim.x) / 2, a.k_blocks / kManyStages, n);
}

// Copies 16 bytes; `barrier` counts them.
__device__ inline void copy_scales(float* to, const float* from, uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], 16, [%2];" ::
          "r"(shared_address(to)),
      "l"(from), "r"(shared_address(barrier))
      : "memory");
}

}  // namespace fathom::kernels
