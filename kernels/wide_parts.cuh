// What the wide product's kernel is made of: its arguments, a block's share of the work and its
// shared memory.
#pragma once

#include "format.h"
#include "ring_place.cuh"
#include "wide_plan.h"

namespace fathom::kernels {

struct WideArgs {
  int32_t tokens = 0;
  int32_t out = 0;       // columns of y
  int32_t w_rows = 0;    // rows of W
  int32_t k_blocks = 0;  // steps of a tile
  int32_t split = 1;
  int32_t x_bytes = 0;  // of a step
  int32_t stages = 0;
  int32_t tile_step = 0;  // rows of W from one tile to the next
  int32_t part_step = 0;  // and from a tile's first part to its second
  const float* w_scales = nullptr;
  const int32_t* w_scale_rows = nullptr;
  int64_t w_scale_stride = 0;
  const float* x_scales = nullptr;
  int64_t x_scale_stride = 0;
  Rows y;
  Format round = Format::kF32;
  bool gated = false;
};

template <bool kScaled, int kColumns, int kParts>
struct WideShape {
  static constexpr int kRows = kColumns * kParts;  // of W
  static constexpr int kTokens = kWideTokens;
  static constexpr int kMathWarps = kTokens / 16;
  static constexpr int kMathThreads = 32 * kMathWarps;
  // Two parts of e4m3 products need more registers than an even share: copying warps give theirs.
  static constexpr bool kMoveRegisters = kScaled && kParts == 2;
  static constexpr int kThreads = kMathThreads + (kMoveRegisters ? 128 : 64);
  static constexpr int kWBytes = kRows * kWideBlockBytes;
  static constexpr int kXBytes = kTokens * kWideBlockBytes;
  static constexpr int kColumnGroups = kColumns / 8;
};

// A block's place and share of the work.
struct WideShare {
  int32_t part;  // of K: the block's place in its cluster
  int32_t tile;
  int32_t token;  // first
  int32_t tokens;
  int32_t begin;  // steps
  int32_t end;
};

template <typename Shape>
struct WideRing {
  uint8_t* base;
  int32_t stages;
  int32_t sums_bytes;

  __device__ uint8_t* w(int s) const { return base + s * Shape::kWBytes; }
  __device__ uint8_t* x(int s) const { return base + stages * Shape::kWBytes + s * Shape::kXBytes; }
  __device__ uint8_t* tiles_end() const {
    return base + stages * (Shape::kWBytes + Shape::kXBytes);
  }
  __device__ float4* sums() const { return reinterpret_cast<float4*>(tiles_end()); }
  // [rows of W | tokens]
  __device__ float* scales(int s) const {
    return reinterpret_cast<float*>(tiles_end() + sums_bytes) + s * (Shape::kRows + Shape::kTokens);
  }
  __device__ uint64_t* full(int s) const { return reinterpret_cast<uint64_t*>(scales(stages)) + s; }
  __device__ uint64_t* empty(int s) const { return full(stages) + s; }
  __device__ uint64_t* joined() const { return full(2 * stages); }
};

}  // namespace fathom::kernels
