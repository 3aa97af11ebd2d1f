// The router of many tokens: scores on tensor cores, in parts of the columns where tokens are not
// enough to fill the device; then a warp a token chooses experts, and the last block makes the
// lists. A score is the sum of its parts in their order, whoever adds them.
#include "async_copy.cuh"
#include "early_launch.cuh"
#include "grouped_choice.cuh"
#include "grouped_lists.cuh"
#include "grouped_schedule.h"
#include "grouped_scores.cuh"
#include "grouped_store.cuh"

namespace fathom::kernels {
namespace {

constexpr int kScoreThreads = 128;
constexpr int kScoreTokens = 32;               // of a block
constexpr int kScoreExperts = 64;              // of a block; a warp has a quarter
constexpr int kPart = 128;                     // columns of a part of a score, and under one scale
constexpr int32_t kGroupsMax = 4;              // of parts
constexpr int64_t kPartScoresMax = 1024 * 64;  // more fill the device without parts
constexpr int32_t kOneBlockPairs = 4096;       // the order of more is made by a launch of its own

// ---- Scores, and x in e4m3.

struct ScoreArgs {
  Rows x;
  int32_t tokens;
  int32_t columns;
  int32_t experts;
  const float* w;
  float* scores;         // [parts or groups of them, tokens, experts]
  int32_t parts;         // that a block adds
  int32_t expert_tiles;  // blocks past them quantize
  Epilogue quantized;
  GroupedCounters* counters;
};

// 128 columns of x's rows of this block's tokens, in e4m3.
__device__ void quantize_part(const ScoreArgs& a, int32_t first_token, int32_t column) {
  constexpr int kEach = kScoreTokens / (kScoreThreads / 16);
  const auto thread = static_cast<int32_t>(threadIdx.x);
  const int32_t at = column + thread % 16 * 8;
  uint4 values[kEach];
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int32_t row = min(first_token + i * (kScoreThreads / 16) + thread / 16, a.tokens - 1);
    values[i] = *reinterpret_cast<const uint4*>(static_cast<const __nv_bfloat16*>(a.x.data) +
                                                int64_t{row} * a.x.stride + at);
  }
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int32_t row = first_token + i * (kScoreThreads / 16) + thread / 16;
    store_quantized<true>(values[i], row < a.tokens ? row : -1, at, a.quantized);
  }
}

// What a lane reads: four columns of every sixteen, of four tokens and of two experts.
struct ScoreRows {
  static constexpr int kTokens = kScoreTokens / 8;
  static constexpr int kExperts = kScoreExperts / 32;
  static constexpr int kSteps = kPart / kScoreStep;
  const __nv_bfloat16* x[kTokens];
  const float* w[kExperts];
  float4 weights[kSteps][kExperts];  // of the part that comes next

  __device__ ScoreRows(const ScoreArgs& a, int32_t first_token, int32_t first_expert) {
    const auto lane = static_cast<int32_t>(threadIdx.x % 32);
#pragma unroll
    for (int i = 0; i < kTokens; ++i) {
      const int32_t token = min(first_token + lane / 4 + 8 * i, a.tokens - 1);
      x[i] =
          static_cast<const __nv_bfloat16*>(a.x.data) + int64_t{token} * a.x.stride + lane % 4 * 4;
    }
#pragma unroll
    for (int i = 0; i < kExperts; ++i) {
      const int32_t expert = min(first_expert + lane / 4 + 8 * i, a.experts - 1);
      w[i] = a.w + int64_t{expert} * a.columns + lane % 4 * 4;
    }
  }

  __device__ void load_weights(int32_t begin) {
#pragma unroll
    for (int step = 0; step < kSteps; ++step)
#pragma unroll
      for (int i = 0; i < kExperts; ++i)
        weights[step][i] = *reinterpret_cast<const float4*>(w[i] + begin + step * kScoreStep);
  }

  // sums[m][n] += 16 tokens by 8 experts over the part whose weights are here.
  __device__ void add(int32_t begin, float (&sums)[2][kExperts][4]) const {
    uint2 tokens[kSteps][kTokens];
#pragma unroll
    for (int step = 0; step < kSteps; ++step)
#pragma unroll
      for (int i = 0; i < kTokens; ++i)
        tokens[step][i] = *reinterpret_cast<const uint2*>(x[i] + begin + step * kScoreStep);
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
#pragma unroll
      for (int n = 0; n < kExperts; ++n) {
        ScoreWeights split;
        split.split(weights[step][n]);
#pragma unroll
        for (int m = 0; m < 2; ++m)
          add_scores(sums[m][n], tokens[step][2 * m], tokens[step][2 * m + 1], split);
      }
    }
  }
};

// total: of a warp's 32 tokens by 16 experts.
__device__ void store_scores(const ScoreArgs& a, int32_t first_token, int32_t first_expert,
                             const float (&total)[2][ScoreRows::kExperts][4]) {
  const auto lane = static_cast<int32_t>(threadIdx.x % 32);
#pragma unroll
  for (int i = 0; i < 4 * ScoreRows::kExperts; ++i) {
    const int32_t token = first_token + lane / 4 + 8 * (i % 4);
    const int32_t expert = first_expert + 8 * (i / 4) + lane % 4 * 2;
    if (token >= a.tokens || expert >= a.experts) continue;
    const float* from = &total[i % 4 / 2][i / 4][i % 2 * 2];
    *reinterpret_cast<float2*>(a.scores + (int64_t{blockIdx.z} * a.tokens + token) * a.experts +
                               expert) = make_float2(from[0], from[1]);
  }
}

__global__ void __launch_bounds__(kScoreThreads) scores_kernel(ScoreArgs a) {
  constexpr int kExperts = ScoreRows::kExperts;
  const auto thread = static_cast<int32_t>(threadIdx.x);
  const int32_t first_token = static_cast<int32_t>(blockIdx.x) * kScoreTokens;
  const int32_t begin = static_cast<int32_t>(blockIdx.z) * a.parts * kPart;
  const int32_t end = begin + a.parts * kPart;
  let_next_kernel_start();
  if (static_cast<int32_t>(blockIdx.y) == a.expert_tiles) {
    wait_for_earlier_kernels();
    for (int32_t k = begin; k < end; k += kPart) quantize_part(a, first_token, k);
    return;
  }
  const int32_t first_expert =
      static_cast<int32_t>(blockIdx.y) * kScoreExperts + thread / 32 * (8 * kExperts);
  ScoreRows rows(a, first_token, first_expert);
  rows.load_weights(begin);
  wait_for_earlier_kernels();
  if (blockIdx.x == 0 && blockIdx.y == 0 && blockIdx.z == 0) {
    for (int32_t i = thread; i < kMoeExpertsMax; i += kScoreThreads) a.counters->pairs[i] = 0;
    if (thread == 0) a.counters->arrived = 0;
  }
  float total[2][kExperts][4] = {};
  for (int32_t k = begin; k < end; k += kPart) {
    float sums[2][kExperts][4] = {};
    rows.add(k, sums);
    if (k + kPart < end) rows.load_weights(k + kPart);
#pragma unroll
    for (int i = 0; i < 8 * kExperts; ++i)
      total[i / 4 / kExperts][i / 4 % kExperts][i % 4] +=
          sums[i / 4 / kExperts][i / 4 % kExperts][i % 4];
  }
  store_scores(a, first_token, first_expert, total);
}

// Parts that are added before others join them: a divisor that leaves few groups.
int32_t group_parts(int64_t columns) {
  const auto parts = static_cast<int32_t>(columns / kPart);
  int32_t each = (parts + kGroupsMax - 1) / kGroupsMax;
  while (parts % each != 0) ++each;
  return each;
}

bool in_parts(int64_t tokens, int32_t experts) { return tokens * experts <= kPartScoresMax; }

// ---- Choices and lists: a warp a token.

struct ChooseArgs {
  RouterShape shape;
  int32_t tokens;
  const float* scores;
  int32_t groups;       // of scores
  int32_t group_parts;  // rows of `scores` that are a group
  const float* bias;
  int32_t* ids;
  float* weights;
  GroupedPairs pairs;
  GroupedSchedule schedule;
};

struct ChooseShared {
  float choices[kListThreads / 32][kMoeExpertsMax];
  int32_t counts[kMoeExpertsMax];
  int32_t sums[kListThreads / 16];
  bool last;
};

template <int kEach>
__device__ void choose(const ChooseArgs& a, ChooseShared& s, int32_t token) {
  const auto lane = static_cast<int32_t>(threadIdx.x % 32);
  GroupedChoice<kEach> choice{a.shape, lane, {}, {}};
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int32_t e = lane + 32 * i;
    const float* from = a.scores + int64_t{token} * a.shape.experts + min(e, a.shape.experts - 1);
    const int64_t step = int64_t{a.tokens} * a.shape.experts;
    float sum = 0.0F;
#pragma unroll 4
    for (int32_t group = 0; group < a.groups; ++group) {
      float part = 0.0F;
#pragma unroll 4
      for (int32_t n = 0; n < a.group_parts; ++n, from += step) part += *from;
      sum += part;
    }
    choice.x[i] = e < a.shape.experts ? sum : -INFINITY;
  }
  choice.score(a.bias);
  choice.close_groups(s.choices[threadIdx.x / 32]);
  const int32_t k = a.shape.experts_per_token;
  const int32_t e = choice.choose(a.ids + token * k, a.weights + token * k) - a.pairs.first_expert;
  const bool counts = lane < k && e >= 0 && e < a.pairs.expert_count;
  if (counts && a.pairs.token_valid[token] != 0) atomicAdd(&s.counts[e], 1);
}

__device__ void choose(const ChooseArgs& a, ChooseShared& s, int32_t token) {
  if (a.shape.experts <= 64) return choose<2>(a, s, token);
  if (a.shape.experts <= 256) return choose<8>(a, s, token);
  choose<kMoeExpertsMax / 32>(a, s, token);
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

__global__ void __launch_bounds__(kListThreads, 1) choose_kernel(ChooseArgs a) {
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
  return x.format == Format::kBF16 && columns % kPart == 0 && experts % 4 == 0 &&
         x.stride % 8 == 0 && reinterpret_cast<uintptr_t>(x.data) % 16 == 0;
}

int32_t grouped_score_parts(int64_t tokens, int64_t columns, int32_t experts) {
  const auto parts = static_cast<int32_t>(columns / kPart);
  return in_parts(tokens, experts) ? parts : parts / group_parts(columns);
}

cudaError_t grouped_route(cudaStream_t stream, const GroupedRouting& r,
                          const GroupedSchedule& schedule) {
  const int32_t each = group_parts(r.columns);
  const bool cut = in_parts(r.tokens, r.shape.experts);
  const int32_t launched = grouped_score_parts(r.tokens, r.columns, r.shape.experts);
  const ScoreArgs scores{r.x,
                         static_cast<int32_t>(r.tokens),
                         static_cast<int32_t>(r.columns),
                         r.shape.experts,
                         r.router,
                         r.scores,
                         cut ? 1 : each,
                         (r.shape.experts + kScoreExperts - 1) / kScoreExperts,
                         r.quantized,
                         schedule.counters};
  const dim3 blocks(
      static_cast<unsigned>((r.tokens + kScoreTokens - 1) / kScoreTokens),
      static_cast<unsigned>(scores.expert_tiles + (r.quantized.data != nullptr ? 1 : 0)),
      static_cast<unsigned>(launched));
  cudaError_t error = launch_early(stream, scores_kernel, blocks, dim3(kScoreThreads), scores);
  if (error != cudaSuccess) return error;
  const ChooseArgs choices{
      r.shape,        scores.tokens, r.scores, static_cast<int32_t>(r.columns / kPart / each),
      cut ? each : 1, r.bias,        r.ids,    r.weights,
      pairs_of(r),    schedule};
  constexpr int kTokens = kListThreads / 32;
  error = launch_early_with_shared(stream, choose_kernel,
                                   dim3(static_cast<unsigned>((r.tokens + kTokens - 1) / kTokens)),
                                   dim3(kListThreads), sizeof(ChooseShared), choices);
  if (error != cudaSuccess || choices.pairs.count <= kOneBlockPairs) return error;
  return grouped_places(stream, r, schedule);
}

}  // namespace fathom::kernels
