// Products of 16-token tiles with one head's weights (mma.sync, m16n8k16). Operands go from memory
// to registers without shared memory: since a sum over K may be taken in any order that both sides
// share, a thread takes 16 bytes of a row, eight neighbours in K, as the fragments of two products.
#include "mla_project.h"

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "async_copy.cuh"
#include "early_launch.cuh"

namespace fathom::kernels {
namespace {

constexpr int kWarps = 4;
constexpr int kColumns = 16;  // a warp's

__device__ void multiply(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                         uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

__device__ uint4 load_16_bytes(const __nv_bfloat16* p, bool present) {
  return present ? __ldg(reinterpret_cast<const uint4*>(p)) : uint4{0, 0, 0, 0};
}

// Into the second-level cache.
__device__ void prefetch_16_bytes(const __nv_bfloat16* p) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
}

__device__ void store_pair(const HeadProjection& p, int64_t at, float a, float b) {
  if (p.out_format == Format::kF32) {
    *reinterpret_cast<float2*>(static_cast<float*>(p.out) + at) = float2{a, b};
  } else {
    *reinterpret_cast<__nv_bfloat162*>(static_cast<__nv_bfloat16*>(p.out) + at) =
        __floats2bfloat162_rn(a, b);
  }
}

// A block: kTiles * 16 tokens by kWarps / kSplit * 16 columns of one head. Its warps share the
// columns, and kSplit of them the inner dimension; their sums are added in a fixed order.
template <int kTiles, int kSplit>
__global__ void __launch_bounds__(kWarps * 32)
    project_kernel(const __grid_constant__ HeadProjection p) {
  __shared__ float sums[kSplit == 1 ? 1 : kWarps][kTiles * 16][kColumns];
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int warp = static_cast<int>(threadIdx.x / 32);
  const int head = static_cast<int>(blockIdx.y);
  const int column = (static_cast<int>(blockIdx.x) * (kWarps / kSplit) + warp / kSplit) * kColumns;
  const int64_t token = int64_t{blockIdx.z} * kTiles * 16 + lane / 4;
  const int share = p.inner / kSplit;
  const int begin = warp % kSplit * share + lane % 4 * 8;
  const auto* x = static_cast<const __nv_bfloat16*>(p.x) + head * p.x_head_stride;
  const auto* w = static_cast<const __nv_bfloat16*>(p.weights) +
                  (int64_t{head} * p.columns + column + lane / 4) * p.inner;
  float d[kTiles][2][4] = {};
  let_next_kernel_start();
  for (int k = begin; k < begin + share; k += 32) {
    prefetch_16_bytes(w + k);
    prefetch_16_bytes(w + int64_t{8} * p.inner + k);
  }
  wait_for_earlier_kernels();
#pragma unroll 4
  for (int k = begin; k < begin + share; k += 32) {
    const uint4 b0 = load_16_bytes(w + k, true);
    const uint4 b1 = load_16_bytes(w + int64_t{8} * p.inner + k, true);
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
      const int64_t t = token + i * 16;
      const uint4 low = load_16_bytes(x + t * p.x_stride + k, t < p.tokens);
      const uint4 high = load_16_bytes(x + (t + 8) * p.x_stride + k, t + 8 < p.tokens);
      multiply(d[i][0], low.x, high.x, low.y, high.y, b0.x, b0.y);
      multiply(d[i][0], low.z, high.z, low.w, high.w, b0.z, b0.w);
      multiply(d[i][1], low.x, high.x, low.y, high.y, b1.x, b1.y);
      multiply(d[i][1], low.z, high.z, low.w, high.w, b1.z, b1.w);
    }
  }
  if constexpr (kSplit > 1) {
#pragma unroll
    for (int i = 0; i < kTiles * 8; ++i)
      sums[warp][i / 8 * 16 + lane / 4 + i % 4 / 2 * 8][i / 4 % 2 * 8 + lane % 4 * 2 + i % 2] =
          d[i / 8][i / 4 % 2][i % 4];
    __syncthreads();
    if (warp % kSplit != 0) return;
#pragma unroll
    for (int i = 0; i < kTiles * 8; ++i) {
#pragma unroll
      for (int other = 1; other < kSplit; ++other)
        d[i / 8][i / 4 % 2][i % 4] += sums[warp + other][i / 8 * 16 + lane / 4 + i % 4 / 2 * 8]
                                          [i / 4 % 2 * 8 + lane % 4 * 2 + i % 2];
    }
  }
#pragma unroll
  for (int i = 0; i < kTiles * 4; ++i) {
    const int64_t t = token + i / 4 * 16 + i % 2 * 8;
    if (t >= p.tokens) continue;
    if (p.token_row != nullptr && (p.token_row[t] < p.first_row || p.token_row[t] >= p.end_row))
      continue;
    const bool meant = p.valid == nullptr || p.valid[t] != 0;
    const float* from = &d[i / 4][i / 2 % 2][i % 2 * 2];
    const int64_t at =
        t * p.out_stride + head * p.out_head_stride + column + i / 2 % 2 * 8 + lane % 4 * 2;
    store_pair(p, at, meant ? from[0] : 0.0F, meant ? from[1] : 0.0F);
  }
}

template <int kSplit>
cudaError_t launch(cudaStream_t stream, const HeadProjection& p) {
  const bool one_tile = p.tokens <= 16;
  const dim3 grid(static_cast<unsigned>(p.columns / (kWarps / kSplit * kColumns)),
                  static_cast<unsigned>(p.heads),
                  one_tile ? 1 : static_cast<unsigned>((p.tokens + 31) / 32));
  return one_tile ? launch_early(stream, project_kernel<1, kSplit>, grid, dim3(kWarps * 32), p)
                  : launch_early(stream, project_kernel<2, kSplit>, grid, dim3(kWarps * 32), p);
}

bool on_16_bytes(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

}  // namespace

bool can_project_heads(const HeadProjection& p) {
  return p.columns % 64 == 0 && p.inner % 128 == 0 && p.x_stride % 8 == 0 &&
         p.x_head_stride % 8 == 0 && p.out_stride % 2 == 0 && p.out_head_stride % 2 == 0 &&
         on_16_bytes(p.x) && on_16_bytes(p.weights) && on_16_bytes(p.out);
}

cudaError_t project_heads(cudaStream_t stream, const HeadProjection& p) {
  if (p.tokens == 0) return cudaSuccess;
  return p.inner > 128 ? launch<4>(stream, p) : launch<1>(stream, p);
}

}  // namespace fathom::kernels
