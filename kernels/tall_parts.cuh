// What the tall product's kernel is made of: its arguments, a block's tiles and its shared memory.
#pragma once

#include "cluster.cuh"
#include "cluster_copy.cuh"
#include "ring_place.cuh"
#include "tall_plan.h"

namespace fathom::kernels {

constexpr int kTallMathThreads = 256;
constexpr int kTallThreads = 384;  // with a thread that copies tiles and a warp that copies scales

struct TallArgs {
  int32_t tokens = 0;
  int32_t token_step = 0;   // from tile to tile
  int32_t token_tiles = 0;  // beside each other: a block's or cluster's, with one W
  int32_t column_tiles = 0;
  int32_t token_advance = 0;  // from one of a block's tiles to the next
  int32_t column_advance = 0;
  int32_t columns = 0;
  int32_t w_rows = 0;
  int32_t k_blocks = 0;
  int32_t stages = 0;
  TallPairing pairing = TallPairing::kAlone;
  bool multicast = false;
  int32_t tile_step = 0;   // rows of W from one tile to the next
  int32_t part_step = 0;   // and from a tile's first part to its second
  int32_t group_step = 0;  // and between rows under different scales
  const float* w_scales = nullptr;
  const int32_t* w_scale_rows = nullptr;
  int64_t w_scale_stride = 0;
  const float* x_scales = nullptr;
  int64_t x_scale_stride = 0;
  Epilogue y;
};

// What a block works on: some tokens, two parts of W, a range of K.
struct TallTile {
  int32_t token;
  int32_t tokens;
  int32_t index;  // along W
  int32_t begin;  // steps
  int32_t end;
};

// A block's tiles, or what is beside each other of a cluster's.
struct TallTiles {
  const TallArgs& a;
  int32_t rank;
  int32_t token_tile;
  int32_t column_tile;

  __device__ explicit TallTiles(const TallArgs& args) : a(args) {
    const bool two = args.pairing != TallPairing::kAlone;
    const auto place = static_cast<int32_t>(blockIdx.x) >> (two ? 1 : 0);
    rank = two ? static_cast<int32_t>(cluster_rank()) : 0;
    column_tile = place / args.token_tiles;
    token_tile = place - column_tile * args.token_tiles;
  }
  __device__ bool more() const { return column_tile < a.column_tiles; }
  __device__ void next() {
    token_tile += a.token_advance;
    column_tile += a.column_advance;
    if (token_tile >= a.token_tiles) {
      token_tile -= a.token_tiles;
      ++column_tile;
    }
  }
  __device__ TallTile tile() const {
    const bool tokens = a.pairing == TallPairing::kTokens;
    const bool columns = a.pairing == TallPairing::kColumns;
    const bool split = a.pairing == TallPairing::kSplit;
    const int32_t half = a.k_blocks / 2;
    TallTile t;
    t.token = (tokens ? 2 * token_tile + rank : token_tile) * a.token_step;
    t.tokens = min(a.tokens - t.token, a.token_step);
    t.index = columns ? 2 * column_tile + rank : column_tile;
    t.begin = split && rank > 0 ? half : 0;
    t.end = split && rank == 0 ? half : a.k_blocks;
    return t;
  }
};

// Tiles of 96, 128 or 256 rows of W: one or two boxes, of one instruction's columns each.
template <int kColumns>
struct TallShape {
  static constexpr int kBoxes = kColumns > 128 ? 2 : 1;
  static constexpr int kBoxColumns = kColumns / kBoxes;
  static constexpr int kSums = kBoxColumns / 2;  // of a thread and box
  // Columns under one scale: a third of 96, as every fourth of such tiles starts a scale block.
  static constexpr int kGroups = kColumns == 96 ? 3 : 2;
  static constexpr int kGroupColumns = kColumns / kGroups;
};

template <int kColumns>
struct TallRing {
  static constexpr int kWBytes = kColumns * kTallBytes;
  static constexpr int kXBytes = kTallTokens * kTallBytes;
  static constexpr int kScales = kTallTokens + 4;  // of a stage: x's, then W's
  static constexpr int kStagedBytes = kTallTokens * 144;
  uint8_t* base;
  int32_t stages;
  int32_t received_bytes;

  __device__ uint8_t* w(int s) const { return base + s * kWBytes; }
  __device__ uint8_t* x(int s) const { return base + stages * kWBytes + s * kXBytes; }
  // Sixteen rows of 144 bytes a warp.
  __device__ uint8_t* staged() const { return base + stages * (kWBytes + kXBytes); }
  __device__ float4* received() const { return reinterpret_cast<float4*>(staged() + kStagedBytes); }
  // [2, tokens]
  __device__ int32_t* largest() const {
    return reinterpret_cast<int32_t*>(staged() + kStagedBytes + received_bytes);
  }
  __device__ float* scales(int s) const {
    return reinterpret_cast<float*>(largest() + 2 * kTallTokens) + s * kScales;
  }
  __device__ uint64_t* full(int s) const { return reinterpret_cast<uint64_t*>(scales(stages)) + s; }
  __device__ uint64_t* empty(int s) const { return full(stages) + s; }
  __device__ uint64_t* told(int i) const { return full(2 * stages) + i; }  // two
  __device__ TallPlace* places() const { return reinterpret_cast<TallPlace*>(told(2)); }
};

}  // namespace fathom::kernels
