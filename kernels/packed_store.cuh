// The end of the packed product: sums cross the cluster, are gated where that is asked for, rounded
// and stored.
#pragma once

#include "async_copy.cuh"
#include "number.cuh"
#include "packed_parts.cuh"

namespace fathom::kernels {

// Both rounded, in one instruction: converting one number at a time has the slow unit that
// exponentials and reciprocals need.
__device__ inline float2 rounded(Format round, float low, float high) {
  if (round == Format::kF32) return make_float2(low, high);
  const uint32_t pair = pack_pair(low, high);
  return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xFFFF0000U));
}

// silu(gate) * up. Past -80 the power would leave float32; what is lost there is under 1e-32.
__device__ inline float packed_gate(float gate, float up) {
  float inverse;
  asm("rcp.approx.ftz.f32 %0, %1;"
      : "=f"(inverse)
      : "f"(1.0F + exp2_fast(fmaxf(gate, -80.0F) * -1.44269504F)));
  return gate * inverse * up;
}

// An 8 x 8 matrix of 16-bit numbers that a warp holds by rows, by columns.
__device__ inline uint32_t transposed(uint32_t x) {
  uint32_t y;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
  return y;
}

// Where a thread's sums go: rows r and r + 8 of a part of 16, two tokens of each group of eight.
struct PackedOutput {
  const PackedArgs& a;
  int32_t column;  // of y: the first row's
  int32_t token;

  __device__ PackedOutput(const PackedArgs& args, int32_t unit, int32_t warp, int32_t lane)
      : a(args),
        column(args.gated ? unit * (kPackedUnit / 2) + warp % 4 * 8 + lane / 4
                          : unit * kPackedUnit + warp % 4 * 16 + lane / 4),
        token(lane % 4 * 2) {}

  __device__ void put(int32_t at_token, int32_t at_column, float value) const {
    if (at_token >= a.tokens || at_column >= a.out) return;
    static_cast<float*>(a.y.data)[at_token * a.y.stride + at_column] = value;
  }
  // Eight columns from `from` on by the group's eight tokens: this lane's are two tokens of a
  // column, stored are two columns of a token. By whole warps.
  __device__ void put_pair(int j, int32_t from, float2 v) const {
    const uint32_t columns = transposed(pack_pair(v.x, v.y));
    const int32_t at = 8 * j + static_cast<int32_t>(threadIdx.x % 32) / 4;
    if (at >= a.tokens || from >= a.out) return;
    *reinterpret_cast<uint32_t*>(static_cast<__nv_bfloat16*>(a.y.data) + at * a.y.stride + from +
                                 token) = columns;
  }
  // Tokens 8 j + token and the next of both rows.
  __device__ void store(int j, const float4& sums) const {
    float2 upper = rounded(a.round, sums.x * a.factor, sums.y * a.factor);
    const float2 lower = rounded(a.round, sums.z * a.factor, sums.w * a.factor);
    if (a.gated) {
      upper = make_float2(packed_gate(upper.x, lower.x), packed_gate(upper.y, lower.y));
    }
    if (a.y.format == Format::kBF16) {
      const int32_t from = column - static_cast<int32_t>(threadIdx.x % 32) / 4;
      put_pair(j, from, upper);
      if (!a.gated) put_pair(j, from + 8, lower);
      return;
    }
    put(8 * j + token, column, upper.x);
    put(8 * j + token + 1, column, upper.y);
    if (a.gated) return;
    put(8 * j + token, column + 8, lower.x);
    put(8 * j + token + 1, column + 8, lower.y);
  }
};

template <int kCount>
__device__ float4 sums_of_group(const float (&total)[kCount], int j) {
  return make_float4(total[4 * j], total[4 * j + 1], total[4 * j + 2], total[4 * j + 3]);
}

// Sends the sums of each group of tokens to the block that has it, and adds what this block has, in
// the order of K.
template <int kTokens, int kUnits>
__device__ void packed_join(const float (&total)[kTokens / 2], const PackedArgs& a,
                            const PackedRing<kTokens, kUnits>& ring, const PackedShare& share,
                            const PackedOutput& output) {
  using Shape = PackedShape<kTokens, kUnits>;
  const int32_t step = Shape::kMathWarps * share.each * 32;  // from one sender's to the next's
  float4* const base = ring.sums() + threadIdx.x / 32 * share.each * 32 + threadIdx.x % 32;
  cluster_wait();  // the others' barriers are ready
  int32_t owner = 0;
  int32_t left = share.each;
  float4* to = base + (share.part - 1) * step;  // behind those of earlier parts, but not mine
#pragma unroll
  for (int j = 0; j < Shape::kGroups; ++j) {
    if (j >= share.groups) break;
    if (left == 0) {
      left = share.each;
      ++owner;
      to = base + (share.part < owner ? share.part : share.part - 1) * step;
    }
    if (owner != share.part) {
      send(to, ring.joined(), static_cast<uint32_t>(owner), sums_of_group(total, j));
    }
    to += 32;
    --left;
  }
  barrier_wait(ring.joined(), 0);
  const float4* from = base;
#pragma unroll
  for (int j = 0; j < Shape::kGroups; ++j) {
    if (j < share.part * share.each || j >= (share.part + 1) * share.each || j >= share.groups) {
      continue;
    }
    const float4 own = sums_of_group(total, j);
    float4 v = make_float4(0.0F, 0.0F, 0.0F, 0.0F);
#pragma unroll 1
    for (int32_t s = 0; s < a.split; ++s) {
      const float4 w = s == share.part ? own : from[(s < share.part ? s : s - 1) * step];
      v = make_float4(v.x + w.x, v.y + w.y, v.z + w.z, v.w + w.w);
    }
    output.store(j, v);
    from += 32;
  }
}

}  // namespace fathom::kernels
