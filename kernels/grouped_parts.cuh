// What the parts of the grouped product's kernel share: its arguments, a block's shared memory, the
// ring of stages, and the barriers of a block's threads.
#pragma once

#include "cluster_copy.cuh"
#include "grouped_gemm.h"
#include "number.cuh"
#include "ring_place.cuh"

namespace fathom::kernels {

constexpr int kGroupedMathThreads = 256;
constexpr int kGroupedRowThreads = 64;  // that copy rows and scales
constexpr int kGroupedThreads = 384;    // with a warp that copies weights, and one that reports
constexpr int kGroupedStages = 4;
constexpr int kGroupedBox = 128;    // rows of a matrix
constexpr int kGroupedBytes = 128;  // of a row, in one stage
constexpr int kGroupedRowsMax = kPairedTileRows;
constexpr int kGroupedHanded = 4;  // items on their way to both blocks of a pair

// One of the products: of gate and up or of down, for the shared expert or the routed ones.
struct GroupedSide {
  const GroupedMatrix* experts = nullptr;
  const uint8_t* x = nullptr;
  const float* x_scales = nullptr;
  int64_t x_scale_stride = 0;
  int32_t x_words = 0;     // 16-byte words from row to row
  int32_t x_divisor = 0;   // row of x: order[i] / divisor; 0: the place itself
  int32_t k_blocks = 0;    // of kGroupedBytes
  int32_t row_tiles = 0;   // items of one tile of pairs
  int32_t box_step = 0;    // rows of the matrix from item to item
  int32_t second_box = 0;  // rows from the first box to the second
  int32_t rows_end = 0;    // of the matrix
  int32_t columns = 0;     // of `out`
  Epilogue out;
};

// Kinds of items, in the order in which they are handed out.
enum GroupedKind : int32_t {
  kSharedGateUp,
  kRoutedGateUp,
  kSharedDown,
  kRoutedDown,
  kGroupedKinds  // no item: the end
};

__device__ inline bool is_gated(int32_t kind) { return kind < kSharedDown; }
__device__ inline bool is_routed(int32_t kind) { return kind % 2 != 0; }

struct GroupedArgs {
  GroupedSide sides[kGroupedKinds];
  int32_t first_kind = 0;
  int32_t end_kind = kGroupedKinds;
  GroupedSchedule schedule;
};

// What a block works on next.
struct GroupedItem {
  int32_t kind;
  int32_t tile;
  int32_t expert;
  int32_t first;
  int32_t rows;  // 0: of a pair of blocks, the other has them all
  int32_t row_tile;
};

struct GroupedShared {
  static constexpr int kStageRows = 72;   // columns of staged bf16 rows of a warpgroup, padded
  static constexpr int kGatedRows = 136;  // of both
  uint8_t w[kGroupedStages][2 * kGroupedBox * kGroupedBytes];
  uint8_t x[kGroupedStages][kGroupedRowsMax * kGroupedBytes];
  __nv_bfloat16 staged[2][64 * kStageRows];
  float x_scales[kGroupedStages][kGroupedRowsMax];
  float w_scales[kGroupedStages][2];  // of the boxes
  struct Slot {
    GroupedItem item;
    int32_t order[(kGroupedRowsMax + 31) / 32 * 32];
  } slots[2];
  int32_t handed[kGroupedHanded];
  uint64_t full[kGroupedStages];
  uint64_t empty[kGroupedStages];
  uint64_t slot_full[2];
  uint64_t slot_empty[2];
  uint64_t handed_full[kGroupedHanded];
};
static_assert(64 * GroupedShared::kGatedRows <= 2 * 64 * GroupedShared::kStageRows);

template <int kNumber, int kThreads>
__device__ inline void meet() {
  asm volatile("bar.sync %0, %1;" ::"n"(kNumber), "n"(kThreads) : "memory");
}

// The threads of one multiplying warpgroup.
__device__ inline void meet_group(int group) {
  asm volatile("bar.sync %0, 128;" ::"r"(3 + group) : "memory");
}

__device__ inline void copy_16_bytes(void* to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)), "l"(from)
               : "memory");
}

__device__ inline void copy_4_bytes(void* to, const void* from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(shared_address(to)), "l"(from)
               : "memory");
}

// What threads wrote to shared memory, and this one knows of, the tensor cores may read.
__device__ inline void make_visible_to_tensor_cores() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

}  // namespace fathom::kernels
