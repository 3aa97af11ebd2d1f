// How the sums of a tile of many rows become bf16 or quantized rows: a warp has 16 rows and all of
// the tile's columns, so it waits for no other.
#pragma once

#include "grouped_store.cuh"
#include "many_parts.cuh"

namespace fathom::kernels {

// silu(gate) * up of two, all rounded to bf16, with one reciprocal for both.
__device__ inline float2 many_gated(float gate_low, float gate_high, float up_low, float up_high) {
  const float2 gate = bf16_values(bf16_pair(gate_low, gate_high));
  const float2 up = bf16_values(bf16_pair(up_low, up_high));
  // Past -43 the product of both divisors would leave float32; what is lost there is under 1e-17.
  const float low = 1.0F + exp2_fast(fmaxf(gate.x, -43.0F) * -1.44269504F);
  const float high = 1.0F + exp2_fast(fmaxf(gate.y, -43.0F) * -1.44269504F);
  float inverse;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(low * high));
  return bf16_values(bf16_pair(gate.x * (inverse * high) * up.x, gate.y * (inverse * low) * up.y));
}

// This warp's 16 rows of 128 columns in e4m3, a scale a row.
__device__ inline void many_store_codes(const ManyArgs& a, __nv_bfloat16* group_staged, int32_t row,
                                        int32_t column_tile, const float (&v)[64]) {
  constexpr int kPitch = kManyStagePitch * 2;  // bytes
  const auto lane = static_cast<int>(threadIdx.x % 32);
  auto* staged = reinterpret_cast<uint8_t*>(group_staged) + threadIdx.x % 128 / 32 * 16 * kPitch;
  uint8_t* to = staged + lane / 4 * kPitch + lane % 4 * 2;
  __syncwarp();
  const float upper = stage_codes<0>(v, to, a.out.ue8m0);
  const float lower = stage_codes<1>(v, to + 8 * kPitch, a.out.ue8m0);
  __syncwarp();
  if (lane % 4 == 0) {
    float* scales = a.out.scales + column_tile;
    const int32_t at = row + lane / 4;
    if (at < a.rows) scales[at * a.out.scale_stride] = upper;
    if (at + 8 < a.rows) scales[(at + 8) * a.out.scale_stride] = lower;
    if (a.scales_by_group != nullptr) {
      float* of_group = a.scales_by_group + int64_t{column_tile} * a.rows;
      if (at < a.rows) of_group[at] = upper;
      if (at + 8 < a.rows) of_group[at + 8] = lower;
    }
  }
#pragma unroll
  for (int i = 0; i < 16; i += 4) {
    const int at = i + lane / 8;
    if (row + at >= a.rows) continue;
    *reinterpret_cast<uint4*>(static_cast<uint8_t*>(a.out.data) + (row + at) * a.out.stride +
                              int64_t{column_tile} * kManyBox + lane % 8 * 16) =
        *reinterpret_cast<const uint4*>(staged + at * kPitch + lane % 8 * 16);
  }
}

// This warp's 16 rows of 128 columns from `column` on in bf16.
__device__ inline void many_store_rows(const ManyArgs& a, __nv_bfloat16* staged, int32_t row,
                                       int32_t column, const float (&v)[64]) {
  const auto warp = static_cast<int>(threadIdx.x % 128 / 32 * 16);
  auto* out = static_cast<__nv_bfloat16*>(a.out.data);
  store_rows(
      staged, [&](int d) { return bf16_pair(v[d], v[d + 1]); },
      [&](int i) -> __nv_bfloat16* {
        const int64_t at = row + i - warp;
        return at < a.rows && column < a.columns ? out + at * a.out.stride + column : nullptr;
      });
}

// `row`: this warp's first. first, second: the sums of both boxes.
template <bool kGated>
__device__ void many_store(const ManyArgs& a, ManyShared& s, int32_t row, int32_t column_tile,
                           float (&first)[64], const float (&second)[64]) {
  __nv_bfloat16* staged = s.staged[threadIdx.x / 128];
  if constexpr (kGated) {
#pragma unroll
    for (int i = 0; i < 64; i += 2) {
      const float2 two = many_gated(first[i], first[i + 1], second[i], second[i + 1]);
      first[i] = two.x;
      first[i + 1] = two.y;
    }
    if (a.out.format == Format::kFp8) {
      many_store_codes(a, staged, row, column_tile, first);
    } else {
      many_store_rows(a, staged, row, column_tile * kManyBox, first);
    }
  } else {
    many_store_rows(a, staged, row, column_tile * kManyTileColumns, first);
    many_store_rows(a, staged, row, column_tile * kManyTileColumns + kManyBox, second);
  }
}

}  // namespace fathom::kernels
