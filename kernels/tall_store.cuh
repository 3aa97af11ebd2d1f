// The end of a tall tile: sums cross the cluster, are gated where that is asked for, and stored.
#pragma once

#include "grouped_store.cuh"
#include "tall_parts.cuh"

namespace fathom::kernels {

constexpr int kTallPitch = 144;  // bytes of a staged row

// Where a warp's 16 rows of a tile are staged and go.
struct TallRows {
  const TallArgs& a;
  uint8_t* staged;  // this warp's
  int32_t first;    // of the tile's tokens
  int32_t token;    // of the tile's first
  int32_t tokens;

  __device__ bool there(int row) const { return first + row < tokens; }
  __device__ int64_t at(int row) const { return token + first + row; }
};

// kCount columns (32 or 64) from `column` on: word(d) has sums d and d + 1 of them.
template <int kCount, typename Word>
__device__ void tall_store_columns(const TallRows& r, int32_t column, const Word& word) {
  const auto lane = static_cast<int>(threadIdx.x % 32);
  auto* to = reinterpret_cast<__nv_bfloat16*>(r.staged + lane % 16 * kTallPitch) + lane / 16 * 8;
  constexpr int kWords = kCount / 8;  // of 16 bytes in a row
  const uint8_t* from = r.staged + lane / kWords * kTallPitch + lane % kWords * 16;
  __syncwarp();
#pragma unroll
  for (int j = 0; j < kCount / 8; j += 2) {
    const uint32_t words[4] = {word(4 * j), word(4 * j + 2), word(4 * j + 4), word(4 * j + 6)};
    stage_rows(to + j * 8, words);
  }
  __syncwarp();
  const int32_t at = column + lane % kWords * 8;
#pragma unroll
  for (int i = 0; i < 16; i += 32 / kWords) {
    const int row = i + lane / kWords;
    if (!r.there(row) || at >= r.a.columns) continue;
    *reinterpret_cast<uint4*>(static_cast<__nv_bfloat16*>(r.a.y.data) + r.at(row) * r.a.y.stride +
                              at) = *reinterpret_cast<const uint4*>(from + i * kTallPitch);
  }
}

template <int kBoxes, int kSums>
__device__ void tall_store(const TallRows& r, int32_t tile, const float (&sums)[kBoxes][kSums]) {
  constexpr int kCount = kSums == 64 ? 64 : 32;
#pragma unroll
  for (int first = 0; first < 2 * kBoxes * kSums; first += kCount) {
    const int box = first / (2 * kSums);
    tall_store_columns<kCount>(r, tile * r.a.tile_step + first, [&](int d) {
      const int i = first / 2 % kSums + d;
      return bf16_pair(sums[box][i], sums[box][i + 1]);
    });
  }
}

// Two blocks have a tile's sums over half of K each: each adds and stores half of its columns.
__device__ inline void tall_join(const TallRows& r, const TallRing<128>& ring, int32_t tile,
                                 int32_t rank, const float (&sums)[1][64]) {
  const auto lane = static_cast<int>(threadIdx.x % 32);
  float4* place = ring.received() + threadIdx.x / 32 * 8 * 32 + lane;
  float own[32];
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const float* first = sums[0] + 4 * j;
    const float* second = sums[0] + 32 + 4 * j;
    float4 other;
    other.x = rank == 0 ? second[0] : first[0];
    other.y = rank == 0 ? second[1] : first[1];
    other.z = rank == 0 ? second[2] : first[2];
    other.w = rank == 0 ? second[3] : first[3];
    send(place + j * 32, ring.told(0), static_cast<uint32_t>(rank ^ 1), other);
#pragma unroll
    for (int i = 0; i < 4; ++i) own[4 * j + i] = rank == 0 ? first[i] : second[i];
  }
  barrier_wait(ring.told(0), 0);
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const float4 v = place[j * 32];
    own[4 * j] += v.x;
    own[4 * j + 1] += v.y;
    own[4 * j + 2] += v.z;
    own[4 * j + 3] += v.w;
  }
  tall_store_columns<64>(r, tile * r.a.tile_step + rank * 64,
                         [&](int d) { return bf16_pair(own[d], own[d + 1]); });
}

// silu(gate) * up of two, all rounded to bf16, with one reciprocal for both.
__device__ inline float2 tall_gated(float gate0, float gate1, float up0, float up1) {
  const float2 gate = bf16_values(bf16_pair(gate0, gate1));
  const float2 up = bf16_values(bf16_pair(up0, up1));
  // Under -43 the product of both divisors would leave float32; what that changes is under 1e-17.
  const float first = 1.0F + exp2_fast(fmaxf(gate.x, -43.0F) * -1.44269504F);
  const float second = 1.0F + exp2_fast(fmaxf(gate.y, -43.0F) * -1.44269504F);
  float inverse;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(first * second));
  return bf16_values(
      bf16_pair(gate.x * (inverse * second) * up.x, gate.y * (inverse * first) * up.y));
}

template <int kCount>
__device__ void tall_gate(float (&v)[kCount], const float* gate, const float* up) {
#pragma unroll
  for (int i = 0; i < kCount; i += 2) {
    const float2 two = tall_gated(gate[i], gate[i + 1], up[i], up[i + 1]);
    v[i] = two.x;
    v[i + 1] = two.y;
  }
}

// The largest of one of a thread's two rows, of its four lanes' columns.
template <int kHalf, int kCount>
__device__ float tall_largest(const float (&v)[kCount]) {
  float largest = 1e-4F;
#pragma unroll
  for (int i = 2 * kHalf; i < kCount; i += 4) {
    largest = fmaxf(largest, fmaxf(fabsf(v[i]), fabsf(v[i + 1])));
  }
  for (int offset = 2; offset > 0; offset /= 2)
    largest = fmaxf(largest, __shfl_xor_sync(0xFFFFFFFFU, largest, offset));
  return largest;
}

template <int kHalf, int kCount>
__device__ void tall_stage_codes(const float (&v)[kCount], float scale, uint8_t* to) {
  const float inverse = inverse_of(scale);
#pragma unroll
  for (int j = 0; j < kCount / 4; ++j) {
    const float2 two = {quotient(v[4 * j + 2 * kHalf], scale, inverse),
                        quotient(v[4 * j + 2 * kHalf + 1], scale, inverse)};
    *reinterpret_cast<uint16_t*>(to + 8 * j) =
        __nv_cvt_float2_to_fp8x2(two, __NV_SATFINITE, __NV_E4M3);
  }
}

// kCount * 2 columns of a warp's rows from `column` on, under scales of `upper` and `lower`.
template <int kCount>
__device__ void tall_store_codes(const TallRows& r, int32_t column, const float (&v)[kCount],
                                 float upper, float lower, bool scales_too) {
  const auto lane = static_cast<int>(threadIdx.x % 32);
  constexpr int kWords = kCount / 8;  // of 16 bytes in a row
  uint8_t* to = r.staged + lane / 4 * kTallPitch + lane % 4 * 2;
  __syncwarp();
  tall_stage_codes<0>(v, upper, to);
  tall_stage_codes<1>(v, lower, to + 8 * kTallPitch);
  __syncwarp();
  if (scales_too && lane % 4 == 0) {
    float* scales = r.a.y.scales + column / 128;
    const int row = lane / 4;
    if (r.there(row)) scales[r.at(row) * r.a.y.scale_stride] = upper;
    if (r.there(row + 8)) scales[r.at(row + 8) * r.a.y.scale_stride] = lower;
  }
#pragma unroll
  for (int i = 0; i < 16; i += 32 / kWords) {
    const int row = i + lane / kWords;
    if (!r.there(row)) continue;
    const int word = lane % kWords * 16;
    *reinterpret_cast<uint4*>(static_cast<uint8_t*>(r.a.y.data) + r.at(row) * r.a.y.stride +
                              column + word) =
        *reinterpret_cast<const uint4*>(r.staged + row * kTallPitch + word);
  }
}

// Gate and up are a block's two boxes: a whole scale group.
__device__ inline void tall_store_gated(const TallRows& r, int32_t tile,
                                        const float (&sums)[2][64]) {
  float v[64];
  tall_gate(v, sums[0], sums[1]);
  const float upper = scale_of(tall_largest<0>(v), r.a.y.ue8m0);
  const float lower = scale_of(tall_largest<1>(v), r.a.y.ue8m0);
  tall_store_codes(r, tile * 128, v, upper, lower, true);
}

// Gate and up are halves of a box, and a scale group is two blocks': each tells the other its
// largest numbers. `round`: of the block's tiles.
__device__ inline void tall_store_gated_two(const TallRows& r, const TallRing<128>& ring,
                                            int32_t tile, int32_t rank, int32_t round,
                                            const float (&sums)[1][64]) {
  const auto lane = static_cast<int>(threadIdx.x % 32);
  const int row = r.first + lane / 4;
  uint64_t* told = ring.told(round % 2);
  int32_t* largest = ring.largest() + round % 2 * kTallTokens;
  float v[32];
  tall_gate(v, sums[0], sums[0] + 32);
  float upper = tall_largest<0>(v);
  float lower = tall_largest<1>(v);
  if (lane % 4 == 0) {
    const auto other = static_cast<uint32_t>(rank ^ 1);
    send_word(largest + row, told, other, __float_as_int(upper));
    send_word(largest + row + 8, told, other, __float_as_int(lower));
  }
  if (threadIdx.x == 0) barrier_expect(told, kTallTokens * 4);
  barrier_wait(told, static_cast<uint32_t>(round / 2 % 2));
  upper = scale_of(fmaxf(upper, __int_as_float(largest[row])), r.a.y.ue8m0);
  lower = scale_of(fmaxf(lower, __int_as_float(largest[row + 8])), r.a.y.ue8m0);
  tall_store_codes(r, tile * 64, v, upper, lower, rank == 0);
}

}  // namespace fathom::kernels
