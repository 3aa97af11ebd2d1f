// How the sums of a grouped tile become bf16 or quantized rows: numbers cross shared memory, so
// that every row is written in whole pieces.
#pragma once

#include "grouped_parts.cuh"
#include "quantize.cuh"

namespace fathom::kernels {

// ---- A wide tile.

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

// silu(gate) * up, all bf16. Rounded in twos: converting one number at a time has the slow unit
// that exponentials and reciprocals need.
__device__ inline float gated_fast(float gate, float up) {
  const float2 both = bf16_values(bf16_pair(gate, up));
  float power;
  float inverse;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(fmaxf(both.x, -80.0F) * -1.44269504F));
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(1.0F + power));
  return both.x * inverse * both.y;
}

// Eight columns of a pair with those of fifteen lanes beside it: 128 columns under one scale.
// kDivided: to the last bit as division rounds.
template <bool kDivided>
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
  const float scale = scale_of(largest, out.ue8m0);
  if (row < 0) return;
  const float inverse = kDivided ? 0.0F : inverse_of(scale);
  const auto over_scale = [&](float x) {
    return kDivided ? x / scale : quotient(x, scale, inverse);
  };
  uint16_t codes[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    codes[i] = __nv_cvt_float2_to_fp8x2(make_float2(over_scale(v[2 * i]), over_scale(v[2 * i + 1])),
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
__device__ void store_gated(const GroupedSide& a, GroupedShared& s, const GroupedItem& item,
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
      store_quantized<false>(values, row, column, a.out);
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
__device__ void store_box(const GroupedSide& a, GroupedShared& s, const GroupedShared::Slot& slot,
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

// ---- Storing a split tile: a warpgroup has kTokens pairs and 128 columns of each box.

// Eight pairs' values of a warp's 16 rows.
__device__ inline void stage_eight(__nv_bfloat16* to, uint32_t upper, uint32_t lower) {
  asm volatile(
      "stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};" ::"r"(shared_address(to)),
      "r"(upper), "r"(lower)
      : "memory");
}

// word(half, d): numbers d and d + 1 of 64 of the columns. out(token, values): of this thread's
// eight columns, called by whole warps.
template <int kTokens, typename Word, typename Out>
__device__ void store_split_box(__nv_bfloat16* staged, int group, const Word& word,
                                const Out& out) {
  constexpr int kPitch = GroupedShared::kGatedRows;
  constexpr int kAtOnce = 24;
  static_assert(kTokens % kAtOnce == 0);
  static_assert(kAtOnce * kPitch <= 64 * GroupedShared::kStageRows);
  const int thread = static_cast<int>(threadIdx.x) % 128;
  const int lane = thread % 32;
  __nv_bfloat16* to = staged + lane % 8 * kPitch + thread / 32 * 16 + lane / 8 % 2 * 8;
#pragma unroll
  for (int begin = 0; begin < kTokens; begin += kAtOnce) {
    meet_group(group);
#pragma unroll
    for (int j = begin / 8; j < (begin + kAtOnce) / 8; ++j) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        stage_eight(to + (8 * j - begin) * kPitch + half * 64, word(half, 4 * j),
                    word(half, 4 * j + 2));
      }
    }
    meet_group(group);
#pragma unroll
    for (int i = 0; i < kAtOnce; i += 8) {
      const int at = i + thread / 16;
      out(group * kTokens + begin + at,
          *reinterpret_cast<const uint4*>(staged + at * kPitch + thread % 16 * 8));
    }
  }
}

template <int kTokens, bool kGated>
__device__ void store_split(const GroupedSide& a, GroupedShared& s, const GroupedShared::Slot& slot,
                            const float (&sums)[4][kTokens / 2]) {
  const GroupedItem& item = slot.item;
  const int group = static_cast<int>(threadIdx.x / 128);
  const int column = static_cast<int>(threadIdx.x) % 16 * 8;
  __nv_bfloat16* staged = s.staged[group];
  if constexpr (kGated) {
    const auto word = [&](int half, int d) {
      return bf16_pair(gated_fast(sums[half][d], sums[2 + half][d]),
                       gated_fast(sums[half][d + 1], sums[2 + half][d + 1]));
    };
    store_split_box<kTokens>(staged, group, word, [&](int token, const uint4& values) {
      const int64_t row = token < item.rows ? item.first + token : -1;
      store_quantized<false>(values, row, int64_t{item.row_tile} * kGroupedBox + column, a.out);
    });
  } else {
#pragma unroll
    for (int box = 0; box < 2; ++box) {
      const int at = (item.row_tile * 2 + box) * kGroupedBox + column;
      const auto word = [&](int half, int d) {
        return bf16_pair(sums[2 * box + half][d], sums[2 * box + half][d + 1]);
      };
      store_split_box<kTokens>(staged, group, word, [&](int token, const uint4& values) {
        if (token >= item.rows || at >= a.columns) return;
        *reinterpret_cast<uint4*>(static_cast<__nv_bfloat16*>(a.out.data) +
                                  slot.order[token] * a.out.stride + at) = values;
      });
    }
  }
}

// ---- Storing a tall tile: a warp has 16 pairs and all columns, so no other's are waited for.

// The same 16 by 16 numbers as they lie.
__device__ inline void stage_rows(__nv_bfloat16* to, const uint32_t (&words)[4]) {
  asm volatile(
      "stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(to)),
      "r"(words[0]), "r"(words[1]), "r"(words[2]), "r"(words[3])
      : "memory");
}

// 128 columns of this warp's 16 pairs, 64 at a time. word(d): numbers d and d + 1, bf16.
// target(i): where pair i's 128 columns go, or null.
template <typename Word, typename Target>
__device__ void store_rows(__nv_bfloat16* staged, const Word& word, const Target& target) {
  constexpr int kPitch = GroupedShared::kStageRows;
  const auto lane = static_cast<int>(threadIdx.x % 32);
  const auto first = static_cast<int>(threadIdx.x % 128 / 32 * 16);
  __nv_bfloat16* to = staged + (first + lane % 16) * kPitch + lane / 16 * 8;
  const __nv_bfloat16* from = staged + (first + lane / 8) * kPitch + lane % 8 * 8;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    __syncwarp();
#pragma unroll
    for (int j = 8 * half; j < 8 * half + 8; j += 2) {
      const uint32_t words[4] = {word(4 * j), word(4 * j + 2), word(4 * j + 4), word(4 * j + 6)};
      stage_rows(to + (j - 8 * half) * 8, words);
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 16; i += 4) {
      __nv_bfloat16* out = target(first + i + lane / 8);
      if (out != nullptr) {
        *reinterpret_cast<uint4*>(out + 64 * half + lane % 8 * 8) =
            *reinterpret_cast<const uint4*>(from + i * kPitch);
      }
    }
  }
}

// One of a thread's two pairs, v[4 j + 2 kUpper + {0, 1}]: quantized codes to its row of 128 bytes.
template <int kHalf>
__device__ float stage_codes(const float (&v)[64], uint8_t* to, bool ue8m0) {
  float largest = 1e-4F;
#pragma unroll
  for (int j = 0; j < 16; ++j) {
    largest = fmaxf(largest, fmaxf(fabsf(v[4 * j + 2 * kHalf]), fabsf(v[4 * j + 2 * kHalf + 1])));
  }
  for (int offset = 2; offset > 0; offset /= 2)
    largest = fmaxf(largest, __shfl_xor_sync(0xFFFFFFFFU, largest, offset));
  const float scale = scale_of(largest, ue8m0);
  const float inverse = inverse_of(scale);
#pragma unroll
  for (int j = 0; j < 16; ++j) {
    const float2 two = {quotient(v[4 * j + 2 * kHalf], scale, inverse),
                        quotient(v[4 * j + 2 * kHalf + 1], scale, inverse)};
    *reinterpret_cast<uint16_t*>(to + 8 * j) =
        __nv_cvt_float2_to_fp8x2(two, __NV_SATFINITE, __NV_E4M3);
  }
  return scale;
}

__device__ inline void store_tall_codes(const GroupedSide& a, GroupedShared& s,
                                        const GroupedItem& item, const float (&v)[64]) {
  constexpr int kPitch = GroupedShared::kStageRows * 2;  // bytes
  const auto lane = static_cast<int>(threadIdx.x % 32);
  const auto group = static_cast<int>(threadIdx.x / 128);
  auto* staged = reinterpret_cast<uint8_t*>(s.staged[group]) + threadIdx.x % 128 / 32 * 16 * kPitch;
  const auto first = static_cast<int>(threadIdx.x / 32 * 16);  // of this warp's pairs
  uint8_t* to = staged + lane / 4 * kPitch + lane % 4 * 2;
  __syncwarp();
  const float upper = stage_codes<0>(v, to, a.out.ue8m0);
  const float lower = stage_codes<1>(v, to + 8 * kPitch, a.out.ue8m0);
  __syncwarp();
  if (lane % 4 == 0) {
    float* scales = a.out.scales + item.row_tile;
    const int pair = first + lane / 4;
    if (pair < item.rows) scales[(item.first + pair) * a.out.scale_stride] = upper;
    if (pair + 8 < item.rows) scales[(item.first + pair + 8) * a.out.scale_stride] = lower;
  }
#pragma unroll
  for (int i = 0; i < 16; i += 4) {
    const int at = i + lane / 8;
    if (first + at >= item.rows) continue;
    *reinterpret_cast<uint4*>(static_cast<uint8_t*>(a.out.data) +
                              (item.first + first + at) * a.out.stride +
                              int64_t{item.row_tile} * kGroupedBox + lane % 8 * 16) =
        *reinterpret_cast<const uint4*>(staged + at * kPitch + lane % 8 * 16);
  }
}

// first, second: gate and up, or 256 columns.
template <Format kFormat, bool kGated>
__device__ void store_tall(const GroupedSide& a, GroupedShared& s, const GroupedShared::Slot& slot,
                           float (&first)[64], const float (&second)[64]) {
  const GroupedItem& item = slot.item;
  const auto group = static_cast<int>(threadIdx.x / 128);
  auto* out = static_cast<__nv_bfloat16*>(a.out.data);
  if constexpr (kGated) {
#pragma unroll
    for (int i = 0; i < 64; i += 2) {
      const float2 two = bf16_values(
          bf16_pair(gated_fast(first[i], second[i]), gated_fast(first[i + 1], second[i + 1])));
      first[i] = two.x;
      first[i + 1] = two.y;
    }
    if constexpr (kFormat == Format::kFp8) {
      store_tall_codes(a, s, item, first);
    } else {
      const auto target = [&](int i) -> __nv_bfloat16* {
        const int pair = group * 64 + i;
        if (pair >= item.rows) return nullptr;
        return out + (item.first + pair) * a.out.stride + int64_t{item.row_tile} * kGroupedBox;
      };
      store_rows(
          s.staged[group], [&](int d) { return bf16_pair(first[d], first[d + 1]); }, target);
    }
  } else {
    const auto store = [&](const float(&sums)[64], int box) {
      const int column = (item.row_tile * 2 + box) * kGroupedBox;
      const auto target = [&](int i) -> __nv_bfloat16* {
        const int pair = group * 64 + i;
        if (pair >= item.rows || column >= a.columns) return nullptr;
        return out + slot.order[pair] * a.out.stride + column;
      };
      store_rows(
          s.staged[group], [&](int d) { return bf16_pair(sums[d], sums[d + 1]); }, target);
    };
    store(first, 0);
    store(second, 1);
  }
}

}  // namespace fathom::kernels
