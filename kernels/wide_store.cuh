// The end of the wide product: sums cross the cluster, are gated where that is asked for, rounded
// and stored.
#pragma once

#include "async_copy.cuh"
#include "number.cuh"
#include "wide_parts.cuh"

namespace fathom::kernels {

// Where a thread's sums go: tokens `token` and token + 8, two columns of each group of eight.
struct WideOutput {
  const WideArgs& a;
  int32_t token;
  int32_t end;  // of this block's tokens

  __device__ void store(int32_t column, const float (&v)[4]) const {
    if (column >= a.out) return;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int32_t at_token = token + 8 * i;
      if (at_token >= end) return;
      const int64_t at = at_token * a.y.stride + column;
      if (a.y.format == Format::kF32) {
        *reinterpret_cast<float2*>(static_cast<float*>(a.y.data) + at) =
            make_float2(round_number(a.round, v[2 * i]), round_number(a.round, v[2 * i + 1]));
      } else {
        *reinterpret_cast<__nv_bfloat162*>(static_cast<__nv_bfloat16*>(a.y.data) + at) =
            __floats2bfloat162_rn(v[2 * i], v[2 * i + 1]);
      }
    }
  }
};

// Of quick powers and quotients: good to 16 binary digits where 8 are stored. The warps of two
// blocks come here together, so instructions count.
__device__ inline float wide_gate(float gate, float up, Format round) {
  const float g = round_number(round, gate);
  return __fdividef(g, 1.0F + __expf(-fmaxf(g, -88.0F))) * round_number(round, up);
}

// One group of columns, of all parts.
template <int kColumns, int kParts>
__device__ void wide_store(const WideArgs& a, const WideOutput& output, int32_t tile, int c,
                           const float (&v)[kParts][4]) {
  const int32_t in_tile = 8 * c + static_cast<int32_t>(threadIdx.x % 4) * 2;
  if constexpr (kParts == 2) {
    if (a.gated) {
      float gated[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) gated[i] = wide_gate(v[0][i], v[1][i], a.round);
      output.store(tile * kColumns + in_tile, gated);
      return;
    }
  }
#pragma unroll
  for (int p = 0; p < kParts; ++p) {
    output.store(tile * a.tile_step + p * a.part_step + in_tile, v[p]);
  }
}

// Groups of eight columns that one block of a cluster adds.
template <typename Shape>
__device__ int32_t wide_each(const WideArgs& a) {
  return (Shape::kColumnGroups + a.split - 1) / a.split;
}

// Sends the sums of each group of columns to the block that has it, and adds what this block has.
template <typename Shape, int kColumns, int kParts>
__device__ void wide_join(const float (&total)[kParts][kColumns / 2], const WideArgs& a,
                          const WideRing<Shape>& ring, const WideShare& share,
                          const WideOutput& output) {
  const int warp = static_cast<int>(threadIdx.x / 32);
  const int lane = static_cast<int>(threadIdx.x % 32);
  if (16 * warp >= share.tokens) return;
  const int32_t each = wide_each<Shape>(a);
  const int32_t step = Shape::kMathWarps * each * kParts * 32;  // from one sender's to the next's
  float4* const base = ring.sums() + warp * each * kParts * 32 + lane;
  const auto sums = [&](int c, int p) {
    return make_float4(total[p][4 * c], total[p][4 * c + 1], total[p][4 * c + 2],
                       total[p][4 * c + 3]);
  };
  int32_t owner = 0;
  int32_t left = each;
  float4* to = base + (share.part - 1) * step;  // behind those of earlier parts, but not mine
#pragma unroll
  for (int c = 0; c < Shape::kColumnGroups; ++c) {
    if (left == 0) {
      left = each;
      ++owner;
      to = base + (share.part < owner ? share.part : share.part - 1) * step;
    }
    if (owner != share.part) {
#pragma unroll
      for (int p = 0; p < kParts; ++p) {
        send(to + p * 32, ring.joined(), static_cast<uint32_t>(owner), sums(c, p));
      }
    }
    to += kParts * 32;
    --left;
  }
  barrier_wait(ring.joined(), 0);
  const float4* from = base;
#pragma unroll
  for (int c = 0; c < Shape::kColumnGroups; ++c) {
    if (c < share.part * each || c >= (share.part + 1) * each) continue;
    float sum[kParts][4];
#pragma unroll
    for (int p = 0; p < kParts; ++p) {
      const float4 own = sums(c, p);
      float4 v = make_float4(0.0F, 0.0F, 0.0F, 0.0F);
#pragma unroll 1
      for (int32_t s = 0; s < a.split; ++s) {
        const float4 w = s == share.part ? own : from[(s < share.part ? s : s - 1) * step + p * 32];
        v = make_float4(v.x + w.x, v.y + w.y, v.z + w.z, v.w + w.w);
      }
      sum[p][0] = v.x;
      sum[p][1] = v.y;
      sum[p][2] = v.z;
      sum[p][3] = v.w;
    }
    wide_store<kColumns, kParts>(a, output, share.tile, c, sum);
    from += kParts * 32;
  }
}

}  // namespace fathom::kernels
