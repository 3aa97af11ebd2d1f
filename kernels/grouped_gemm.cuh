// The grouped product's kernel. Blocks stay, and each works through its share of the items: a tile
// of at most 128 pairs of one expert by two boxes of 128 rows of its matrix. Pairs are the narrow
// side of the tensor core's product, so a tile is as wide as its pairs need, in steps of 16: the
// boxes are its A, the pairs' rows its B. A warpgroup copies (weights by the copy engine, rows by
// index, scales); two multiply, 64 rows of either box each. A sum's order over K is the same in
// every tile, so a pair's result does not depend on its neighbours.
#pragma once

#include "async_copy.cuh"
#include "grouped_gemm.h"
#include "number.cuh"
#include "wgmma.cuh"

namespace fathom::kernels {

constexpr int kGroupedMathThreads = 256;
constexpr int kGroupedCopyThreads = 128;
constexpr int kGroupedThreads = kGroupedMathThreads + kGroupedCopyThreads;
constexpr int kGroupedStages = 4;
constexpr int kGroupedBox = 128;    // rows of a matrix
constexpr int kGroupedBytes = 128;  // of a row, in one stage

struct GroupedArgs {
  const GroupedMatrix* experts = nullptr;
  const GroupedTile* tiles = nullptr;
  const int32_t* tile_count = nullptr;
  const int32_t* order = nullptr;
  const uint8_t* x = nullptr;
  int32_t x_words = 0;      // 16-byte words from row to row
  int32_t x_divisor = 1;    // row of x: order[i] / divisor
  bool x_in_order = false;  // row of x: i
  const float* x_scales = nullptr;
  int64_t x_scale_stride = 0;
  int32_t k_blocks = 0;    // of kGroupedBytes
  int32_t row_tiles = 0;   // items of one tile of pairs
  int32_t box_step = 0;    // rows of the matrix from item to item
  int32_t first_row = 0;   // of the first item's first box
  int32_t second_box = 0;  // rows from the first box to the second
  int32_t rows_end = 0;    // of the matrix
  int32_t columns = 0;     // of `out`
  Epilogue out;
};

// What a block works on next.
struct GroupedItem {
  int32_t expert;
  int32_t first;
  int32_t rows;  // 0: no more
  int32_t row_tile;
};

struct GroupedShared {
  static constexpr int kStageRows = 72;   // columns of staged bf16 rows of a warpgroup, padded
  static constexpr int kGatedRows = 136;  // of both
  uint8_t w[kGroupedStages][2 * kGroupedBox * kGroupedBytes];
  uint8_t x[kGroupedStages][kGroupedTileRows * kGroupedBytes];
  __nv_bfloat16 staged[2][64 * kStageRows];
  float scales[kGroupedStages][2][kGroupedTileRows];  // x's times the box's
  struct Slot {
    GroupedItem item;
    int32_t order[kGroupedTileRows];
  } slots[2];
  uint64_t full[kGroupedStages];
  uint64_t empty[kGroupedStages];
  uint64_t slot_full[2];
  uint64_t slot_empty[2];
};
static_assert(64 * GroupedShared::kGatedRows <= 2 * 64 * GroupedShared::kStageRows);

template <int kStages>
struct RingPlace {
  int32_t stage = 0;
  uint32_t parity = 0;

  __device__ void next() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

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

// What threads wrote to shared memory, and this one knows of, the tensor cores may read.
__device__ inline void make_visible_to_tensor_cores() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

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
    uint64_t* full = &s.full[at.stage];
    barrier_expect(full, sizeof s.w[0]);
    copy_tile(s.w[at.stage], &w.map, full, k * kBlock, row);
    copy_tile(s.w[at.stage] + kGroupedBox * kGroupedBytes, &w.map, full, k * kBlock,
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
    for (int32_t k = 0; k < a.k_blocks; ++k, at.next()) {
      barrier_wait(&s.empty[at.stage], at.parity ^ 1);
      if (thread == 0) load_weights(w, row, k);
#pragma unroll
      for (int i = 0; i < kRowsEach; ++i) {
        if (i < sixteens) {
          copy_16_bytes(s.x[at.stage] + to + i * 16 * kGroupedBytes,
                        a.x + (uint64_t{from[i]} * 16 + k * kGroupedBytes));
        }
      }
      barrier_arrive_after_copies(&s.full[at.stage]);
      if constexpr (kFormat == Format::kFp8) {
        s.scales[at.stage][0][thread] = next[0] * next[1];
        s.scales[at.stage][1][thread] = next[0] * next[2];
        __syncwarp();
        if (thread % 32 == 0) barrier_arrive(&s.full[at.stage]);
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
    barrier_wait(&s.slot_empty[place.stage], place.parity ^ 1);
    GroupedShared::Slot& slot = s.slots[place.stage];
    if (copy.thread == 0) slot.item = item;
    if (item.rows > 0)
      slot.order[copy.thread] = a.order[item.first + min(copy.thread, item.rows - 1)];
    barrier_arrive(&s.slot_full[place.stage]);
    if (item.rows == 0) break;
    meet<2, kGroupedCopyThreads>();
    copy.load(item, slot);
    place.next();
  }
  asm volatile("cp.async.wait_all;" ::: "memory");
}

// ---- Multiplying.

template <Format kFormat, int kTokens>
struct GroupedMath {
  static constexpr int kSums = kTokens / 2;
  GroupedShared& s;
  RingPlace<kGroupedStages>& at;
  int group;   // warpgroup
  int column;  // of each eight pairs, this thread's first

  // One box's product over a stage, four instructions of 32 bytes.
  __device__ void issue(float (&d)[kSums], int box, bool keep) const {
    const int first = (box * kGroupedBox + group * 64) * kGroupedBytes;
    const uint64_t w = wgmma_tile(shared_address(s.w[at.stage]) + first);
    const uint64_t x = wgmma_tile(shared_address(s.x[at.stage]));
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; ++k)
      Wgmma<kFormat, kTokens>::run(d, w + 2 * k, x + 2 * k, keep || k > 0 ? 1 : 0);
    wgmma_commit();
  }
  __device__ void wait() const {
    barrier_wait(&s.full[at.stage], at.parity);
    make_visible_to_tensor_cores();
  }
  __device__ void release(int stage) const {
    __syncwarp();
    if (threadIdx.x % 32 == 0) barrier_arrive(&s.empty[stage]);
  }
  // total += part * scale of the pair.
  __device__ void promote(float (&total)[kSums], float (&part)[kSums], int box) const {
    const float* scales = s.scales[at.stage][box] + column;
#pragma unroll
    for (int j = 0; j < kTokens / 8; ++j) {
      const float2 x = *reinterpret_cast<const float2*>(scales + 8 * j);
      total[4 * j] += part[4 * j] * x.x;
      total[4 * j + 1] += part[4 * j + 1] * x.y;
      total[4 * j + 2] += part[4 * j + 2] * x.x;
      total[4 * j + 3] += part[4 * j + 3] * x.y;
    }
  }
};

// Sums of e4m3 products: the tensor core's of 128 columns, then ours, scaled. While one warpgroup
// adds, the other's products run.
template <int kTokens>
__device__ void multiply_boxes(GroupedMath<Format::kFp8, kTokens>& m, int32_t k_blocks,
                               float (&first)[kTokens / 2], float (&second)[kTokens / 2]) {
#pragma unroll
  for (int i = 0; i < kTokens / 2; ++i) first[i] = second[i] = 0.0F;
  for (int32_t k = 0; k < k_blocks; ++k, m.at.next()) {
    float part[kTokens / 2];
    m.wait();
    m.issue(part, 0, false);
    wgmma_wait<0>();
    wgmma_use(part);
    m.promote(first, part, 0);
    m.issue(part, 1, false);
    wgmma_wait<0>();
    wgmma_use(part);
    m.promote(second, part, 1);
    m.release(m.at.stage);
  }
}

// Sums of bf16 products, all the tensor core's; a stage is given back when the next is in flight.
template <int kTokens>
__device__ void multiply_boxes(GroupedMath<Format::kBF16, kTokens>& m, int32_t k_blocks,
                               float (&first)[kTokens / 2], float (&second)[kTokens / 2]) {
  m.wait();
  m.issue(first, 0, false);
  m.issue(second, 1, false);
  int last = m.at.stage;
  m.at.next();
  for (int32_t k = 1; k < k_blocks; ++k, m.at.next()) {
    m.wait();
    m.issue(first, 0, true);
    m.issue(second, 1, true);
    wgmma_wait<2>();
    m.release(last);
    last = m.at.stage;
  }
  wgmma_wait<0>();
  wgmma_use(first);
  wgmma_use(second);
  m.release(last);
}

// ---- Storing.

// Stages sixteen pairs' values of a warp's 16 rows (bf16, two pairs a word) as rows of pairs:
// words 0 and 1 of the first eight pairs, rows of the lower and the upper half.
__device__ inline void stage_transposed(__nv_bfloat16* to, const uint32_t (&words)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                   shared_address(to)),
               "r"(words[0]), "r"(words[1]), "r"(words[2]), "r"(words[3])
               : "memory");
}

__device__ inline uint32_t bf16_pair(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

__device__ inline float2 bf16_values(uint32_t pair) {
  return {__uint_as_float(pair << 16), __uint_as_float(pair & 0xFFFF0000U)};
}

// silu(gate) * up, all bf16.
__device__ inline float gated_fast(float gate, float up) {
  gate = round_number(Format::kBF16, gate);
  up = round_number(Format::kBF16, up);
  return __fdividef(gate, 1.0F + __expf(-fmaxf(gate, -80.0F))) * up;
}

// Eight columns of a pair with those of fifteen lanes beside it: 128 columns under one scale.
__device__ inline void store_quantized(const uint4& values, int64_t row, int64_t column,
                                       const Epilogue& out) {
  const uint32_t words[4] = {values.x, values.y, values.z, values.w};
  float v[8];
  float largest = 1e-4F;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 two = bf16_values(words[i]);
    v[2 * i] = two.x;
    v[2 * i + 1] = two.y;
    largest = fmaxf(largest, fmaxf(fabsf(two.x), fabsf(two.y)));
  }
  for (int offset = 8; offset > 0; offset /= 2)
    largest = fmaxf(largest, __shfl_xor_sync(0xFFFFFFFFU, largest, offset));
  float scale = largest / 448.0F;
  if (out.ue8m0) {
    const uint32_t bits = __float_as_uint(scale);
    const bool up = (bits & 0x7FFFFFU) != 0;
    scale = __uint_as_float(up ? (bits & 0x7F800000U) + 0x800000U : bits);
  }
  if (row < 0) return;
  uint16_t codes[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    codes[i] = __nv_cvt_float2_to_fp8x2(make_float2(v[2 * i] / scale, v[2 * i + 1] / scale),
                                        __NV_SATFINITE, __NV_E4M3);
  }
  *reinterpret_cast<uint2*>(static_cast<uint8_t*>(out.data) + row * out.stride + column) =
      make_uint2(codes[0] | uint32_t{codes[1]} << 16, codes[2] | uint32_t{codes[3]} << 16);
  if (threadIdx.x % 16 == 0) out.scales[row * out.scale_stride + column / 128] = scale;
}

// Sixty-four pairs or fewer from kBegin on, as rows of `staged`. word(d): sums d and d + 1,
// rounded.
template <int kTokens, int kBegin, int kPitch, typename Word>
__device__ void stage_pairs(__nv_bfloat16* staged, int warp_row, const Word& word) {
  constexpr int kEnd = kTokens - kBegin < 64 ? kTokens : kBegin + 64;
  const auto lane = static_cast<int>(threadIdx.x % 32);
  __nv_bfloat16* to = staged + (lane / 16 * 8 + lane % 8) * kPitch + warp_row + lane % 16 / 8 * 8;
#pragma unroll
  for (int j = kBegin / 8; j < kEnd / 8; j += 2) {
    const uint32_t words[4] = {word(4 * j), word(4 * j + 2), word(4 * j + 4), word(4 * j + 6)};
    stage_transposed(to + (8 * j - kBegin) * kPitch, words);
  }
}

// Gate and up are the two boxes: 128 columns of `out`, both warpgroups' halves.
template <Format kFormat, int kTokens, int kBegin = 0>
__device__ void store_gated(const GroupedArgs& a, GroupedShared& s, const GroupedItem& item,
                            const float (&gate)[kTokens / 2], const float (&up)[kTokens / 2]) {
  constexpr int kPitch = GroupedShared::kGatedRows;
  constexpr int kCount = kTokens - kBegin < 64 ? kTokens - kBegin : 64;
  const auto thread = static_cast<int>(threadIdx.x);
  const int64_t column = int64_t{item.row_tile} * kGroupedBox + thread % 16 * 8;
  meet<1, kGroupedMathThreads>();
  stage_pairs<kTokens, kBegin, kPitch>(s.staged[0], thread / 32 * 16, [&](int d) {
    return bf16_pair(gated_fast(gate[d], up[d]), gated_fast(gate[d + 1], up[d + 1]));
  });
  meet<1, kGroupedMathThreads>();
  for (int i = thread / 16; i < kCount; i += 16) {
    const auto values = *reinterpret_cast<const uint4*>(s.staged[0] + i * kPitch + thread % 16 * 8);
    const int64_t row = kBegin + i < item.rows ? item.first + kBegin + i : -1;
    if constexpr (kFormat == Format::kFp8) {
      store_quantized(values, row, column, a.out);
    } else if (row >= 0) {
      *reinterpret_cast<uint4*>(static_cast<__nv_bfloat16*>(a.out.data) + row * a.out.stride +
                                column) = values;
    }
  }
  if constexpr (kBegin + 64 < kTokens)
    store_gated<kFormat, kTokens, kBegin + 64>(a, s, item, gate, up);
}

// One box: 128 columns of `out`, each warpgroup its 64; rows are the pairs'.
template <int kTokens, int kBegin = 0>
__device__ void store_box(const GroupedArgs& a, GroupedShared& s, const GroupedShared::Slot& slot,
                          int box, const float (&sums)[kTokens / 2]) {
  constexpr int kPitch = GroupedShared::kStageRows;
  constexpr int kCount = kTokens - kBegin < 64 ? kTokens - kBegin : 64;
  const int thread = static_cast<int>(threadIdx.x) % 128;
  const int group = static_cast<int>(threadIdx.x) / 128;
  const int column = (slot.item.row_tile * 2 + box) * kGroupedBox + group * 64 + thread % 8 * 8;
  __nv_bfloat16* staged = s.staged[group];
  meet_group(group);
  stage_pairs<kTokens, kBegin, kPitch>(staged, thread / 32 * 16,
                                       [&](int d) { return bf16_pair(sums[d], sums[d + 1]); });
  meet_group(group);
  for (int i = thread / 8; i < kCount; i += 16) {
    if (kBegin + i >= slot.item.rows || column >= a.columns) break;
    const auto values = *reinterpret_cast<const uint4*>(staged + i * kPitch + thread % 8 * 8);
    *reinterpret_cast<uint4*>(static_cast<__nv_bfloat16*>(a.out.data) +
                              slot.order[kBegin + i] * a.out.stride + column) = values;
  }
  if constexpr (kBegin + 64 < kTokens) store_box<kTokens, kBegin + 64>(a, s, slot, box, sums);
}

template <Format kFormat, bool kGated, int kTokens>
__device__ void multiply_item(const GroupedArgs& a, GroupedShared& s,
                              const GroupedShared::Slot& slot, RingPlace<kGroupedStages>& at) {
  GroupedMath<kFormat, kTokens> m{s, at, static_cast<int>(threadIdx.x / 128),
                                  static_cast<int>(threadIdx.x % 4 * 2)};
  float first[kTokens / 2];
  float second[kTokens / 2];
  multiply_boxes(m, a.k_blocks, first, second);
  if constexpr (kGated) {
    store_gated<kFormat, kTokens>(a, s, slot.item, first, second);
  } else {
    store_box<kTokens>(a, s, slot, 0, first);
    store_box<kTokens>(a, s, slot, 1, second);
  }
}

template <Format kFormat, bool kGated>
__device__ void grouped_multiply(const GroupedArgs& a, GroupedShared& s) {
  RingPlace<kGroupedStages> at;
  RingPlace<2> place;
  while (true) {
    barrier_wait(&s.slot_full[place.stage], place.parity);
    const GroupedShared::Slot& slot = s.slots[place.stage];
    switch ((slot.item.rows + 15) / 16) {
      case 0: return;
      case 1: multiply_item<kFormat, kGated, 16>(a, s, slot, at); break;
      case 2: multiply_item<kFormat, kGated, 32>(a, s, slot, at); break;
      case 3: multiply_item<kFormat, kGated, 48>(a, s, slot, at); break;
      case 4: multiply_item<kFormat, kGated, 64>(a, s, slot, at); break;
      case 5: multiply_item<kFormat, kGated, 80>(a, s, slot, at); break;
      case 6: multiply_item<kFormat, kGated, 96>(a, s, slot, at); break;
      case 7: multiply_item<kFormat, kGated, 112>(a, s, slot, at); break;
      default: multiply_item<kFormat, kGated, 128>(a, s, slot, at); break;
    }
    __syncwarp();
    if (threadIdx.x % 32 == 0) barrier_arrive(&s.slot_empty[place.stage]);
    place.next();
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
