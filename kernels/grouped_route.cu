// The router of many tokens: scores as a product in float32, then a warp a token chooses experts.
#include "grouped_gemm.h"
#include "moe.h"
#include "number.cuh"

namespace fathom::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kTile = 64;   // tokens and experts of a block
constexpr int kStep = 32;   // columns
constexpr int kPitch = 68;  // of a column's floats
constexpr int kScoresEach = kGroupedExpertsMax / 32;

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

struct Best {
  float value;
  int32_t at;
};

// The largest value of a warp, of equals the lowest place.
__device__ Best warp_best(Best mine) {
  for (int offset = 16; offset > 0; offset /= 2) {
    const float value = __shfl_xor_sync(0xFFFFFFFFU, mine.value, offset);
    const int32_t at = __shfl_xor_sync(0xFFFFFFFFU, mine.at, offset);
    if (value > mine.value || (value == mine.value && at < mine.at)) mine = {value, at};
  }
  return mine;
}

__device__ float warp_max(float x) {
  for (int offset = 16; offset > 0; offset /= 2)
    x = fmaxf(x, __shfl_xor_sync(0xFFFFFFFFU, x, offset));
  return x;
}

// x[i]: the score of expert lane + 32 i; 0 past the last.
__device__ void score_all(const RouterShape& s, const float* raw, float (&x)[kScoresEach]) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  float most = -INFINITY;
  for (int i = 0; i < kScoresEach; ++i) {
    const int e = lane + 32 * i;
    x[i] = e < s.experts ? raw[e] : -INFINITY;
    most = fmaxf(most, x[i]);
  }
  if (s.sigmoid) {
    for (float& v : x) v = v == -INFINITY ? 0.0F : 1.0F / (1.0F + expf(-v));
    return;
  }
  most = warp_max(most);
  float sum = 0.0F;
  for (float& v : x) sum += v = expf(v - most);
  sum = warp_sum(sum);
  for (float& v : x) v /= sum;
}

// Bit g is set for every group that the token may choose from. choices: [experts] of this warp.
__device__ uint32_t open_groups(const RouterShape& s, const float* choices) {
  if (s.groups == 1) return 1;
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int size = s.experts / s.groups;
  float first = -INFINITY;
  float second = -INFINITY;
  for (int i = 0; lane < s.groups && i < size; ++i) {
    const float v = choices[lane * size + i];
    second = fmaxf(second, fminf(first, v));
    first = fmaxf(first, v);
  }
  Best mine{s.top_two_sum && size > 1 ? first + second : first, lane};
  if (lane >= s.groups) mine.value = -INFINITY;
  uint32_t open = 0;
  for (int n = 0; n < s.groups_per_token; ++n) {
    Best candidate = mine;
    if ((open >> lane & 1U) != 0 || lane >= s.groups) candidate = {-INFINITY, 64 + lane};
    open |= 1U << (warp_best(candidate).at & 31);
  }
  return open;
}

// choices: scratch [experts] in shared memory. Lane n returns choice n's expert, in the order of
// ids, and its weight.
__device__ void route_token(const RouterShape& s, const float* raw, const float* bias,
                            float* choices, int32_t* ids, float* weights) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  float x[kScoresEach];
  score_all(s, raw, x);
  for (int i = 0; i < kScoresEach; ++i) {
    const int e = lane + 32 * i;
    if (e < s.experts) choices[e] = x[i] + (bias != nullptr ? bias[e] : 0.0F);
  }
  __syncwarp();
  const uint32_t open = open_groups(s, choices);
  const int size = s.experts / s.groups;
  int32_t expert = 0x7FFFFFFF;
  float weight = 0.0F;
  float sum = 0.0F;
  for (int n = 0; n < s.experts_per_token; ++n) {
    Best mine{-INFINITY, 0x7FFFFFFF};
    for (int e = lane; e < s.experts; e += 32) {
      const float v = choices[e];
      if ((open >> (e / size) & 1U) != 0 && v > mine.value) mine = {v, e};
    }
    const int32_t at = min(warp_best(mine).at, s.experts - 1);
    float here = 0.0F;
    for (int i = 0; i < kScoresEach; ++i) here = lane + 32 * i == at ? x[i] : here;
    here = __shfl_sync(0xFFFFFFFFU, here, at % 32);
    if (lane == n) expert = at, weight = here;
    sum += here;
    __syncwarp();
    if (lane == at % 32) choices[at] = -INFINITY;
    __syncwarp();
  }
  int rank = 0;
  for (int n = 0; n < s.experts_per_token; ++n)
    rank += __shfl_sync(0xFFFFFFFFU, expert, n) < expert ? 1 : 0;
  if (lane >= s.experts_per_token) return;
  ids[rank] = expert;
  weights[rank] = weight * (s.normalize ? s.scale / (sum + 1e-20F) : s.scale);
}

__global__ void __launch_bounds__(kThreads)
    choose_kernel(RouterShape s, int64_t tokens, const float* scores, const float* bias,
                  int32_t* ids, float* weights) {
  __shared__ float choices[kWarps][kGroupedExpertsMax];
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
