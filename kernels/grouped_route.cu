// The router of many tokens: scores as a product in float32, then a warp a token chooses experts.
#include "grouped_gemm.h"
#include "moe.h"
#include "route_token.cuh"

namespace fathom::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kTile = 64;   // tokens and experts of a block
constexpr int kStep = 32;   // columns
constexpr int kPitch = 68;  // of a column's floats

// ---- Scores: a thread has four tokens by four experts. The order over columns is one for all.

struct ScoreTiles {
  float x[kStep][kPitch];
  float w[kStep][kPitch];
};

// Eight columns of one row.
struct ScoreColumns {
  float x[8];
  float w[8];

  __device__ void load(const __nv_bfloat16* x_row, const float* w_row) {
    const uint4 words = *reinterpret_cast<const uint4*>(x_row);
    const uint32_t pairs[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      x[2 * i] = __uint_as_float(pairs[i] << 16);
      x[2 * i + 1] = __uint_as_float(pairs[i] & 0xFFFF0000U);
    }
#pragma unroll
    for (int i = 0; i < 8; i += 4) {
      const float4 four = *reinterpret_cast<const float4*>(w_row + i);
      w[i] = four.x;
      w[i + 1] = four.y;
      w[i + 2] = four.z;
      w[i + 3] = four.w;
    }
  }
};

__global__ void __launch_bounds__(kThreads)
    scores_kernel(Rows x, int64_t tokens, const float* w, int32_t columns, int32_t experts,
                  float* scores) {
  __shared__ __align__(16) ScoreTiles tiles;
  const auto thread = static_cast<int32_t>(threadIdx.x);
  const int64_t first_token = int64_t{blockIdx.x} * kTile;
  const int32_t first_expert = static_cast<int32_t>(blockIdx.y) * kTile;
  const int32_t row = thread % kTile;
  const int32_t at = thread / kTile * 8;
  const __nv_bfloat16* x_row = static_cast<const __nv_bfloat16*>(x.data) +
                               min(first_token + row, tokens - 1) * x.stride + at;
  const float* w_row = w + int64_t{first_expert + row} * columns + at;
  const int32_t expert = thread % 16 * 4;
  const int32_t token = thread / 16 * 4;
  float sums[4][4] = {};
  ScoreColumns next;
  next.load(x_row, w_row);
  for (int32_t k = 0; k < columns; k += kStep) {
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      tiles.x[at + i][row] = next.x[i];
      tiles.w[at + i][row] = next.w[i];
    }
    __syncthreads();
    if (k + kStep < columns) next.load(x_row + k + kStep, w_row + k + kStep);
#pragma unroll 8
    for (int i = 0; i < kStep; ++i) {
      const float4 a = *reinterpret_cast<const float4*>(&tiles.x[i][token]);
      const float4 b = *reinterpret_cast<const float4*>(&tiles.w[i][expert]);
      const float mine[4] = {a.x, a.y, a.z, a.w};
      const float theirs[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
      for (int t = 0; t < 4; ++t)
#pragma unroll
        for (int e = 0; e < 4; ++e) sums[t][e] += mine[t] * theirs[e];
    }
  }
  for (int t = 0; t < 4; ++t) {
    if (first_token + token + t >= tokens) return;
    *reinterpret_cast<float4*>(scores + (first_token + token + t) * experts + first_expert +
                               expert) =
        make_float4(sums[t][0], sums[t][1], sums[t][2], sums[t][3]);
  }
}

// ---- Routing: a warp a token.

__global__ void __launch_bounds__(kThreads)
    choose_kernel(RouterShape s, int64_t tokens, const float* scores, const float* bias,
                  int32_t* ids, float* weights) {
  __shared__ float choices[kWarps][kMoeExpertsMax];
  const auto warp = static_cast<int32_t>(threadIdx.x / 32);
  const int64_t t = int64_t{blockIdx.x} * kWarps + warp;
  if (t >= tokens) return;
  route_token(s, scores + t * s.experts, bias, choices[warp], ids + t * s.experts_per_token,
              weights + t * s.experts_per_token);
}

}  // namespace

bool grouped_scores_fit(const Rows& x, int64_t columns, int32_t experts) {
  return x.format == Format::kBF16 && columns % kStep == 0 && experts % kTile == 0 &&
         x.stride % 8 == 0 && reinterpret_cast<uintptr_t>(x.data) % 16 == 0;
}

void grouped_scores(cudaStream_t stream, const Rows& x, int64_t tokens, const float* router,
                    int64_t columns, int32_t experts, float* scores) {
  const dim3 blocks(static_cast<unsigned>((tokens + kTile - 1) / kTile),
                    static_cast<unsigned>(experts / kTile));
  scores_kernel<<<blocks, kThreads, 0, stream>>>(x, tokens, router, static_cast<int32_t>(columns),
                                                 experts, scores);
}

void grouped_route(cudaStream_t stream, const RouterShape& shape, int64_t tokens,
                   const float* scores, const float* bias, int32_t* ids, float* weights) {
  choose_kernel<<<static_cast<unsigned>((tokens + kWarps - 1) / kWarps), kThreads, 0, stream>>>(
      shape, tokens, scores, bias, ids, weights);
}

}  // namespace fathom::kernels
