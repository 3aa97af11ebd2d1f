// The products of a grouped tile, by the two multiplying warpgroups: sums over K of two boxes of
// 128 rows of a matrix and a tile of pairs, in one order for both kinds of tile.
#pragma once

#include "grouped_parts.cuh"
#include "wgmma.cuh"

namespace fathom::kernels {

// The K offset of 32 bytes is 2 of a descriptor's low word.
__device__ inline uint64_t further(uint64_t tile, int k) {
  return (tile & 0xFFFFFFFF00000000U) | (static_cast<uint32_t>(tile) + 2 * k);
}

// What both kinds of tile do with the ring.
template <Format kFormat>
struct StageReader {
  static constexpr bool kEachLane = kFormat == Format::kFp8;  // reads scales
  GroupedShared& s;
  RingPlace<kGroupedStages>& at;
  uint32_t peer_empty;  // where the barriers `empty` of the pair's other block are; 0: none

  __device__ void wait() const {
    barrier_wait(&s.full[at.index], at.phase);
    make_visible_to_tensor_cores();
  }
  __device__ void release(int stage) const {
    barrier_arrive_of_warp<kEachLane>(&s.empty[stage]);
    if (peer_empty != 0 && threadIdx.x % 32 == 1) {
      barrier_arrive_remote(peer_empty + static_cast<uint32_t>(stage * sizeof(uint64_t)));
    }
  }
  // Two pairs' of every eight, times the box's.
  template <int kEights>
  __device__ void load_column_scales(float2 (&scales)[kEights], int column, int box) const {
    const float* from = s.x_scales[at.index] + column;
    const float w = s.w_scales[at.index][box];
#pragma unroll
    for (int j = 0; j < kEights; ++j) {
      const float2 two = *reinterpret_cast<const float2*>(from + 8 * j);
      scales[j] = {two.x * w, two.y * w};
    }
  }
  __device__ uint32_t w(int row) const {
    return shared_address(s.w[at.index]) + row * kGroupedBytes;
  }
  __device__ uint32_t x(int row) const {
    return shared_address(s.x[at.index]) + row * kGroupedBytes;
  }
};

// Four products of 32 bytes of K.
template <Format kFormat, int kColumns>
__device__ void issue_stage(float (&d)[kColumns / 2], uint32_t a, uint32_t b, bool keep) {
  const uint64_t a_tile = wgmma_tile(a);
  const uint64_t b_tile = wgmma_tile(b);
  wgmma_fence();
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    Wgmma<kFormat, kColumns>::run(d, further(a_tile, k), further(b_tile, k), keep || k > 0 ? 1 : 0);
  }
  wgmma_commit();
}

// A tile of few pairs: pairs are the products' columns, a warpgroup has 64 rows of either box.
template <Format kFormat, int kTokens>
struct WideMath {
  static constexpr int kSums = kTokens / 2;
  static constexpr int kEights = kTokens / 8;
  StageReader<kFormat> reader;
  int group;   // warpgroup
  int column;  // of each eight pairs, this thread's first

  __device__ void issue(float (&d)[kSums], int box, bool keep) const {
    issue_stage<kFormat, kTokens>(d, reader.w(box * kGroupedBox + group * 64), reader.x(0), keep);
  }
  __device__ void load_scales(float2 (&scales)[kEights], int box) const {
    reader.load_column_scales(scales, column, box);
  }
  // total += part * scale of the pair.
  __device__ static void promote(float (&total)[kSums], const float (&part)[kSums],
                                 const float2 (&scales)[kEights]) {
#pragma unroll
    for (int j = 0; j < kEights; ++j) {
      total[4 * j] += part[4 * j] * scales[j].x;
      total[4 * j + 1] += part[4 * j + 1] * scales[j].y;
      total[4 * j + 2] += part[4 * j + 2] * scales[j].x;
      total[4 * j + 3] += part[4 * j + 3] * scales[j].y;
    }
  }
};

// A tile of many pairs: pairs are the products' rows, a warpgroup has 64 of them and all of both
// boxes. A thread has two pairs, so two scales do where the other kind needs one for every column.
template <Format kFormat>
struct TallMath {
  static constexpr int kSums = 64;
  struct Scales {
    float upper;
    float lower;
  };
  StageReader<kFormat> reader;
  int group;
  int row;  // this thread's first pair; the other is 8 further

  __device__ void issue(float (&d)[kSums], int box, bool keep) const {
    issue_stage<kFormat, 128>(d, reader.x(group * 64), reader.w(box * kGroupedBox), keep);
  }
  // Both boxes, which lie one after the other: x's rows are read once for both.
  __device__ void issue_both(float (&d)[2 * kSums], bool keep) const {
    issue_stage<kFormat, 256>(d, reader.x(group * 64), reader.w(0), keep);
  }
  __device__ void load_scales(Scales (&scales)[1], int box) const {
    const float* from = reader.s.x_scales[reader.at.index] + row;
    const float w = reader.s.w_scales[reader.at.index][box];
    scales[0] = {from[0] * w, from[8] * w};
  }
  __device__ static void promote(float (&total)[kSums], const float (&part)[kSums],
                                 const Scales (&scales)[1]) {
#pragma unroll
    for (int j = 0; j < kSums / 4; ++j) {
      total[4 * j] += part[4 * j] * scales[0].upper;
      total[4 * j + 1] += part[4 * j + 1] * scales[0].upper;
      total[4 * j + 2] += part[4 * j + 2] * scales[0].lower;
      total[4 * j + 3] += part[4 * j + 3] * scales[0].lower;
    }
  }
};

// A tile of more pairs than are rows of two products: pairs are columns, a warpgroup has kTokens of
// them and all 256 rows of the boxes, in quarters, so that each has two scales for every column.
template <int kTokens>
struct SplitMath {
  static constexpr int kSums = kTokens / 2;
  static constexpr int kEights = kTokens / 8;
  StageReader<Format::kFp8> reader;
  int group;
  int column;  // of each eight pairs, this thread's first; with the warpgroup's

  __device__ void issue(float (&d)[kSums], int quarter) const {
    issue_stage<Format::kFp8, kTokens>(d, reader.w(quarter * 64), reader.x(group * kTokens), false);
  }
  __device__ void load_scales(float2 (&scales)[kEights], int box) const {
    reader.load_column_scales(scales, column, box);
  }

  __device__ void run(int32_t k_blocks, float (&total)[4][kSums]) const {
#pragma unroll
    for (int i = 0; i < 4 * kSums; ++i) total[i / kSums][i % kSums] = 0.0F;
    for (int32_t k = 0; k < k_blocks; ++k, reader.at.advance()) {
      float2 scales[kEights];
      float part[kSums];
      reader.wait();
#pragma unroll
      for (int quarter = 0; quarter < 4; ++quarter) {
        issue(part, quarter);
        if (quarter % 2 == 0) load_scales(scales, quarter / 2);
        wgmma_wait<0>();
        wgmma_use(part);
        if (quarter == 3) reader.release(reader.at.index);
        WideMath<Format::kFp8, kTokens>::promote(total[quarter], part, scales);
      }
    }
  }
};

// Sums of e4m3 products: the tensor core's of 128 columns, then ours, scaled. While one warpgroup
// adds, the other's products run. Scales are read while the products are under way.
template <typename Math, typename Scale, int kScales, int kSums>
__device__ void multiply_scaled(Math& m, int32_t k_blocks, float (&first)[kSums],
                                float (&second)[kSums]) {
#pragma unroll
  for (int i = 0; i < kSums; ++i) first[i] = second[i] = 0.0F;
  for (int32_t k = 0; k < k_blocks; ++k, m.reader.at.advance()) {
    float part[kSums];
    Scale scales[kScales];
    m.reader.wait();
    m.issue(part, 0, false);
    m.load_scales(scales, 0);
    wgmma_wait<0>();
    wgmma_use(part);
    m.promote(first, part, scales);
    m.issue(part, 1, false);
    m.load_scales(scales, 1);
    wgmma_wait<0>();
    wgmma_use(part);
    m.reader.release(m.reader.at.index);
    m.promote(second, part, scales);
  }
}

// Sums of bf16 products, all the tensor core's; a stage is given back when the next is in flight.
template <typename Math, int kSums>
__device__ void multiply_exact(Math& m, int32_t k_blocks, float (&first)[kSums],
                               float (&second)[kSums]) {
  m.reader.wait();
  m.issue(first, 0, false);
  m.issue(second, 1, false);
  int last = m.reader.at.index;
  m.reader.at.advance();
  for (int32_t k = 1; k < k_blocks; ++k, m.reader.at.advance()) {
    m.reader.wait();
    m.issue(first, 0, true);
    m.issue(second, 1, true);
    wgmma_wait<2>();
    m.reader.release(last);
    last = m.reader.at.index;
  }
  wgmma_wait<0>();
  wgmma_use(first);
  wgmma_use(second);
  m.reader.release(last);
}

// The same of a tall tile, both boxes in one product.
template <typename Math, int kSums>
__device__ void multiply_both(Math& m, int32_t k_blocks, float (&sums)[kSums]) {
  m.reader.wait();
  m.issue_both(sums, false);
  int last = m.reader.at.index;
  m.reader.at.advance();
  for (int32_t k = 1; k < k_blocks; ++k, m.reader.at.advance()) {
    m.reader.wait();
    m.issue_both(sums, true);
    wgmma_wait<1>();
    m.reader.release(last);
    last = m.reader.at.index;
  }
  wgmma_wait<0>();
  wgmma_use(sums);
  m.reader.release(last);
}

}  // namespace fathom::kernels
