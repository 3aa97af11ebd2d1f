// What packed weights take, and how their product is run. No CUDA here: the chooser is tested
// without.
#pragma once

#include <cstdint>

namespace fathom::kernels {

// A record is 64 rows of W by 64 columns: the numbers in 12 bits (packed_number.h), and room for so
// many exceptions of four bytes.
constexpr int32_t kPackedUnit = 64;
constexpr int32_t kPackedNumberBytes = kPackedUnit * kPackedUnit * 3 / 2;
constexpr int32_t kPackedExceptionsMax = 32;
constexpr int32_t kPackedRecordBytes = kPackedNumberBytes + kPackedExceptionsMax * 4;

constexpr int32_t kPackedRowsMax = 128;  // of x
constexpr int32_t kPackedSplitMax = 8;   // blocks of a cluster
constexpr int32_t kPackedStagesMax = 12;
// An SM's 228 KiB less 1 KiB of the system's, for one block or for two.
constexpr int32_t kPackedSharedMax = 232448;
constexpr int32_t kPackedSharedHalf = 233472 / 2 - 1024;

// The kernel's shapes, an instance each: most rows of x, and units of W's rows that a block has.
// `pair`: two blocks fit an SM.
struct PackedShapeOf {
  int32_t token_tile;
  int32_t units;
  bool pair;
};
inline constexpr PackedShapeOf kPackedShapes[] = {
    {8, 1, true},  {8, 2, true},   {32, 1, true},   {32, 2, true},   {64, 1, true},
    {64, 2, true}, {128, 1, true}, {128, 2, false}, {128, 4, false},
};

// Shared memory that a block of a shape may have.
constexpr int32_t packed_room(int32_t token_tile, int32_t units) {
  for (const PackedShapeOf& shape : kPackedShapes) {
    if (shape.token_tile != token_tile || shape.units != units) continue;
    return shape.pair ? kPackedSharedHalf : kPackedSharedMax;
  }
  return 0;
}

struct PackedPlan {
  int32_t token_tile = 0;
  int32_t units = 0;
  int32_t slot_rows = 0;     // of x that a stage has room for: a multiple of 8, token_tile at most
  int32_t split = 1;         // blocks of a cluster, which share a tile's K
  int32_t stages = 0;        // steps of 64 columns in flight in a block
  bool overlap = true;       // start before the stream's last kernel ends
  bool overlap_next = true;  // let the next one start at once, else behind our last weights
};

// Columns of W that can be packed are whole units; rows need not be.
constexpr bool packable(int64_t out, int64_t in, bool gated) {
  return in > 0 && out > 0 && in % kPackedUnit == 0 && out % (gated ? 16 : 8) == 0;
}

// Of a matrix that is packable. gate and up joined ([2 width, K]): a unit is 32 rows of either.
// Units lie in pairs, whose records alternate along K, so that one copy brings a step of both.
constexpr int64_t packed_units(int64_t out) {
  return (out + 2 * kPackedUnit - 1) / (2 * kPackedUnit) * 2;
}
constexpr int64_t packed_bytes(int64_t out, int64_t in) {
  return packed_units(out) * (in / kPackedUnit) * kPackedRecordBytes;
}
// Where a record begins, of a matrix of so many steps of 64 columns.
constexpr int64_t packed_record_at(int64_t unit, int64_t step, int64_t steps) {
  return ((unit / 2 * steps + step) * 2 + unit % 2) * kPackedRecordBytes;
}

// Groups of eight rows of x whose sums one block of the cluster adds.
constexpr int32_t packed_groups_each(int32_t slot_rows, int32_t split) {
  return (slot_rows / 8 + split - 1) / split;
}

// Shared memory of a block: the ring's stages and what the tile's other blocks send.
constexpr int32_t packed_shared_bytes(const PackedPlan& plan, int32_t stages) {
  const int32_t stage = plan.units * kPackedRecordBytes + plan.slot_rows * 128 + 16;
  const int32_t sent =
      (plan.split - 1) * 4 * plan.units * packed_groups_each(plan.slot_rows, plan.split) * 512;
  return stages * stage + sent + 8;
}

}  // namespace fathom::kernels
