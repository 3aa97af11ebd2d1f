// The router of many tokens: scores as a product in float32, in parts of the columns where tokens
// are not enough to fill the device; then a warp a token chooses experts, and the last block makes
// the lists. A score is the sum of its parts in their order, whoever adds them.
#include "async_copy.cuh"
#include "early_launch.cuh"
#include "grouped_lists.cuh"
#include "grouped_schedule.h"
#include "grouped_store.cuh"
#include "route_token.cuh"

namespace fathom::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kTile = 64;                 // tokens and experts of a block
constexpr int kStep = 32;                 // columns
constexpr int kPitch = 68;                // of a column's floats
constexpr int kGroup = 128;               // columns under one scale
constexpr int64_t kPartTokensMax = 1024;  // more fill the device without parts
constexpr int32_t kOneBlockPairs = 4096;  // the order of more is made by a launch of its own

// ---- Scores: a thread has four tokens by four experts.

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

struct ScoreArgs {
  Rows x;
  int32_t tokens;
  int32_t columns;
  int32_t experts;
  const float* w;
  float* scores;         // [parts, tokens, experts]
  int32_t part_columns;  // of kGroup
  int32_t parts;         // of a block; blocks of a token have one each, or one has all
  Epilogue quantized;
  GroupedCounters* counters;
};

// x's 128 columns of this block's tokens, in e4m3.
__device__ void quantize_group(const ScoreArgs& a, int32_t first_token, int32_t column) {
  const auto thread = static_cast<int32_t>(threadIdx.x);
  const int32_t at = column + thread % 16 * 8;
#pragma unroll
  for (int i = 0; i < kTile; i += kThreads / 16) {
    const int32_t row = first_token + i + thread / 16;
    const auto* x = static_cast<const __nv_bfloat16*>(a.x.data) +
                    int64_t{min(row, a.tokens - 1)} * a.x.stride + at;
    store_quantized(*reinterpret_cast<const uint4*>(x), row < a.tokens ? row : -1, at, a.quantized);
  }
}

// Adds a part's columns from `k` on to sums.
__device__ void add_part(const ScoreArgs& a, ScoreTiles& tiles, const __nv_bfloat16* x_row,
                         const float* w_row, float (&sums)[4][4]) {
  const auto thread = static_cast<int32_t>(threadIdx.x);
  const int32_t row = thread % kTile;
  const int32_t at = thread / kTile * 8;
  ScoreColumns next;
  next.load(x_row, w_row);
  for (int32_t k = 0; k < a.part_columns; k += kStep) {
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      tiles.x[at + i][row] = next.x[i];
      tiles.w[at + i][row] = next.w[i];
    }
    __syncthreads();
    if (k + kStep < a.part_columns) next.load(x_row + k + kStep, w_row + k + kStep);
#pragma unroll 8
    for (int i = 0; i < kStep; ++i) {
      const float4 x = *reinterpret_cast<const float4*>(&tiles.x[i][thread / 16 * 4]);
      const float4 w = *reinterpret_cast<const float4*>(&tiles.w[i][thread % 16 * 4]);
      const float mine[4] = {x.x, x.y, x.z, x.w};
      const float theirs[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
      for (int t = 0; t < 4; ++t)
#pragma unroll
        for (int e = 0; e < 4; ++e) sums[t][e] += mine[t] * theirs[e];
    }
  }
}

__global__ void __launch_bounds__(kThreads) scores_kernel(ScoreArgs a) {
  __shared__ __align__(16) ScoreTiles tiles;
  const auto thread = static_cast<int32_t>(threadIdx.x);
  const int32_t first_token = static_cast<int32_t>(blockIdx.x) * kTile;
  const int32_t first_expert = static_cast<int32_t>(blockIdx.y) * kTile;
  const int32_t first_part = static_cast<int32_t>(blockIdx.z) * a.parts;
  let_next_kernel_start();
  wait_for_earlier_kernels();
  if (blockIdx.x == 0 && blockIdx.y == 0 && blockIdx.z == 0) {
    for (int32_t i = thread; i < kMoeExpertsMax; i += kThreads) a.counters->pairs[i] = 0;
    if (thread == 0) a.counters->arrived = 0;
  }
  const int32_t at = thread / kTile * 8 + first_part * a.part_columns;
  const auto* x_row = static_cast<const __nv_bfloat16*>(a.x.data) +
                      int64_t{min(first_token + thread % kTile, a.tokens - 1)} * a.x.stride + at;
  const int32_t expert = min(first_expert + thread % kTile, a.experts - 1);
  const float* w_row = a.w + int64_t{expert} * a.columns + at;
  float total[4][4] = {};
  for (int32_t part = 0; part < a.parts; ++part) {
    float sums[4][4] = {};
    add_part(a, tiles, x_row + part * a.part_columns, w_row + part * a.part_columns, sums);
    for (int t = 0; t < 4; ++t)
      for (int e = 0; e < 4; ++e) total[t][e] += sums[t][e];
    if (a.quantized.data == nullptr || blockIdx.y != 0) continue;
    for (int32_t k = 0; k < a.part_columns; k += kGroup)
      quantize_group(a, first_token, (first_part + part) * a.part_columns + k);
  }
  for (int t = 0; t < 4; ++t) {
    const int32_t token = first_token + thread / 16 * 4 + t;
    if (token >= a.tokens || first_expert + thread % 16 * 4 >= a.experts) return;
    float* to = a.scores + (int64_t{blockIdx.z} * a.tokens + token) * a.experts;
    *reinterpret_cast<float4*>(to + first_expert + thread % 16 * 4) =
        make_float4(total[t][0], total[t][1], total[t][2], total[t][3]);
  }
}

int32_t part_columns_of(int64_t columns) {
  const int32_t wide = columns > 4096 ? 4 * kGroup : kGroup;
  return columns % wide == 0 ? wide : kGroup;
}

// ---- Choices and lists: a warp a token.

struct ChooseArgs {
  RouterShape shape;
  int32_t tokens;
  const float* scores;
  int32_t score_parts;
  const float* bias;
  int32_t* ids;
  float* weights;
  GroupedPairs pairs;
  GroupedSchedule schedule;
};

struct ChooseShared {
  float choices[kListThreads / 32][kMoeExpertsMax];
  int32_t counts[kMoeExpertsMax];
  int32_t sums[2 * kListThreads];
  bool last;
};

__device__ void choose(const ChooseArgs& a, ChooseShared& s, int32_t token) {
  const auto lane = static_cast<int32_t>(threadIdx.x % 32);
  float* choices = s.choices[threadIdx.x / 32];
  for (int32_t e = lane; e < a.shape.experts; e += 32) {
    const float* from = a.scores + int64_t{token} * a.shape.experts + e;
    float sum = 0.0F;
#pragma unroll 8
    for (int32_t part = 0; part < a.score_parts; ++part)
      sum += from[int64_t{part} * a.tokens * a.shape.experts];
    choices[e] = sum;
  }
  __syncwarp();
  const int32_t k = a.shape.experts_per_token;
  route_token(a.shape, choices, a.bias, choices, a.ids + token * k, a.weights + token * k);
  __syncwarp();
  if (lane >= k) return;
  const int32_t e = a.pairs.expert_of(token * k + lane);
  if (e >= 0) atomicAdd(&s.counts[e], 1);
}

// By the last block of all.
__device__ void make_lists(const ChooseArgs& a, ChooseShared& s) {
  const auto thread = static_cast<int32_t>(threadIdx.x);
  s.counts[thread] = make_tiles(a.pairs, a.schedule, a.tokens, s.sums);
  if (a.pairs.count > kOneBlockPairs) return;
  __syncthreads();
#pragma unroll 4
  for (int32_t pair = thread; pair < a.pairs.count; pair += kListThreads) {
    const int32_t e = a.pairs.expert_of(pair);
    if (e >= 0) a.schedule.order[atomicAdd(&s.counts[e], 1)] = pair;
  }
}

__global__ void __launch_bounds__(kListThreads) choose_kernel(ChooseArgs a) {
  extern __shared__ __align__(16) uint8_t raw[];
  auto& s = *reinterpret_cast<ChooseShared*>(raw);
  const auto thread = static_cast<int32_t>(threadIdx.x);
  const int32_t token = static_cast<int32_t>(blockIdx.x * (kListThreads / 32)) + thread / 32;
  let_next_kernel_start();
  s.counts[thread] = 0;
  wait_for_earlier_kernels();
  __syncthreads();
  if (token < a.tokens) choose(a, s, token);
  __syncthreads();
  GroupedCounters& counters = *a.schedule.counters;
  if (s.counts[thread] > 0) atomicAdd(&counters.pairs[thread], s.counts[thread]);
  __threadfence();
  __syncthreads();
  if (thread == 0) s.last = atomicAdd(&counters.arrived, 1) == static_cast<int32_t>(gridDim.x) - 1;
  __syncthreads();
  if (!s.last) return;
  __threadfence();
  make_lists(a, s);
}

}  // namespace

bool grouped_route_fits(const Rows& x, int64_t columns, int32_t experts) {
  return x.format == Format::kBF16 && columns % kGroup == 0 && experts % 4 == 0 &&
         x.stride % 8 == 0 && reinterpret_cast<uintptr_t>(x.data) % 16 == 0;
}

int32_t grouped_score_parts(int64_t tokens, int64_t columns) {
  return tokens > kPartTokensMax ? 1 : static_cast<int32_t>(columns / part_columns_of(columns));
}

cudaError_t grouped_route(cudaStream_t stream, const GroupedRouting& r,
                          const GroupedSchedule& schedule) {
  ScoreArgs scores{r.x,
                   static_cast<int32_t>(r.tokens),
                   static_cast<int32_t>(r.columns),
                   r.shape.experts,
                   r.router,
                   r.scores,
                   part_columns_of(r.columns),
                   0,
                   r.quantized,
                   schedule.counters};
  const int32_t launched = grouped_score_parts(r.tokens, r.columns);
  scores.parts = static_cast<int32_t>(r.columns / scores.part_columns / launched);
  const dim3 blocks(static_cast<unsigned>((r.tokens + kTile - 1) / kTile),
                    static_cast<unsigned>((r.shape.experts + kTile - 1) / kTile),
                    static_cast<unsigned>(launched));
  cudaError_t error = launch_early(stream, scores_kernel, blocks, dim3(kThreads), scores);
  if (error != cudaSuccess) return error;
  const ChooseArgs choices{r.shape, scores.tokens, r.scores,    launched, r.bias,
                           r.ids,   r.weights,     pairs_of(r), schedule};
  constexpr int kTokens = kListThreads / 32;
  error = launch_early_with_shared(stream, choose_kernel,
                                   dim3(static_cast<unsigned>((r.tokens + kTokens - 1) / kTokens)),
                                   dim3(kListThreads), sizeof(ChooseShared), choices);
  if (error != cudaSuccess || choices.pairs.count <= kOneBlockPairs) return error;
  return grouped_places(stream, r, schedule);
}

}  // namespace fathom::kernels
