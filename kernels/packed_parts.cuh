// What the packed product's kernel is made of: its arguments, a block's share of the work and its
// shared memory.
#pragma once

#include "format.h"
#include "packed_plan.h"
#include "ring_place.cuh"

namespace fathom::kernels {

struct PackedArgs {
  const uint8_t* records = nullptr;
  int32_t tokens = 0;
  int32_t out = 0;    // columns of y
  int32_t units = 0;  // of W
  int32_t steps = 0;  // of a tile
  int32_t split = 1;
  int32_t stages = 0;
  int32_t slot_rows = 0;  // of x in a stage
  float factor = 1.0F;    // of sums
  Rows y;
  Format round = Format::kF32;
  bool gated = false;
  bool overlap_next = true;
};

template <int kTokens, int kUnits>
struct PackedShape {
  static constexpr int kMathWarps = 4 * kUnits;
  static constexpr int kMathThreads = 32 * kMathWarps;
  // Five warpgroups have too few registers each for sums of 128 tokens: those that copy give
  // theirs.
  static constexpr bool kMoveRegisters = kUnits == 4;
  // A step is multiplied while the next is decoded, where there are registers for both.
  static constexpr bool kTwoSteps = kTokens <= 64;
  static constexpr int kBlocks = packed_room(kTokens, kUnits) == kPackedSharedMax ? 1 : 2;
  static constexpr int kThreads = kMathThreads + (kMoveRegisters ? 128 : 64);
  static constexpr int kWBytes = kUnits * kPackedRecordBytes;
  static constexpr int kGroups = kTokens / 8;
};

// A block's place and share of the work.
struct PackedShare {
  int32_t part;   // of K: the block's place in its cluster
  int32_t unit;   // first
  int32_t begin;  // steps
  int32_t end;
  int32_t groups;  // of eight tokens
  int32_t each;    // of them, that a block of the cluster adds
};

// The ring's stages (x, then W), then what the cluster's other blocks send.
template <int kTokens, int kUnits>
struct PackedRing {
  using Shape = PackedShape<kTokens, kUnits>;
  uint8_t* base;
  int32_t stages;
  int32_t slot_bytes;
  int32_t sent_bytes;

  __device__ uint8_t* x(int s) const { return base + s * slot_bytes; }
  __device__ uint8_t* w(int s) const { return base + stages * slot_bytes + s * Shape::kWBytes; }
  // [split - 1][warps][groups each][32 lanes]
  __device__ float4* sums() const { return reinterpret_cast<float4*>(w(stages)); }
  __device__ uint64_t* full(int s) const {
    return reinterpret_cast<uint64_t*>(w(stages) + sent_bytes) + s;
  }
  __device__ uint64_t* empty(int s) const { return full(stages) + s; }
  __device__ uint64_t* joined() const { return full(2 * stages); }
};

}  // namespace fathom::kernels
