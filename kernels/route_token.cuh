// A token's choice of experts, by one warp (DeepSeek-V3, section 2.1.2): scores, the open groups,
// the best of them, and their weights. Shared by the routers of few and of many tokens.
#pragma once

#include <cfloat>

#include "moe.h"
#include "moe_limits.h"
#include "number.cuh"

namespace fathom::kernels {

inline constexpr int kRouteScores = kMoeExpertsMax / 32;  // of a lane

struct RouteBest {
  float value;
  int32_t at;
};

// The largest value of a warp, of equals the lowest place.
__device__ inline RouteBest route_best(RouteBest mine) {
  for (int offset = 16; offset > 0; offset /= 2) {
    const float value = __shfl_xor_sync(0xFFFFFFFFU, mine.value, offset);
    const int32_t at = __shfl_xor_sync(0xFFFFFFFFU, mine.at, offset);
    if (value > mine.value || (value == mine.value && at < mine.at)) mine = {value, at};
  }
  return mine;
}

__device__ inline float warp_max(float x) {
  for (int offset = 16; offset > 0; offset /= 2)
    x = fmaxf(x, __shfl_xor_sync(0xFFFFFFFFU, x, offset));
  return x;
}

// What an expert is chosen by. A row of padding may hold anything, NaN as well: its choices are k
// different experts all the same, or places of choices would stay unwritten.
__device__ inline float choosable(float score) {
  return fminf(fmaxf(score, -FLT_MAX), FLT_MAX);
}

// x[i]: the score of expert lane + 32 i; 0 past the last.
__device__ inline void score_all(const RouterShape& s, const float* raw, float (&x)[kRouteScores]) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  float most = -INFINITY;
  for (int i = 0; i < kRouteScores; ++i) {
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
__device__ inline uint32_t open_groups(const RouterShape& s, const float* choices) {
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
  RouteBest mine{s.top_two_sum && size > 1 ? first + second : first, lane};
  if (lane >= s.groups) mine.value = -INFINITY;
  uint32_t open = 0;
  for (int n = 0; n < s.groups_per_token; ++n) {
    RouteBest candidate = mine;
    if ((open >> lane & 1U) != 0 || lane >= s.groups) candidate = {-INFINITY, 64 + lane};
    open |= 1U << (route_best(candidate).at & 31);
  }
  return open;
}

// choices: scratch [experts] in shared memory. Lane n returns choice n's expert, in the order of
// ids, and its weight.
__device__ inline void route_token(const RouterShape& s, const float* raw, const float* bias,
                            float* choices, int32_t* ids, float* weights) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  float x[kRouteScores];
  score_all(s, raw, x);
  for (int i = 0; i < kRouteScores; ++i) {
    const int e = lane + 32 * i;
    if (e < s.experts) choices[e] = choosable(x[i] + (bias != nullptr ? bias[e] : 0.0F));
  }
  __syncwarp();
  const uint32_t open = open_groups(s, choices);
  const int size = s.experts / s.groups;
  int32_t expert = 0x7FFFFFFF;
  float weight = 0.0F;
  float sum = 0.0F;
  for (int n = 0; n < s.experts_per_token; ++n) {
    RouteBest mine{-INFINITY, 0x7FFFFFFF};
    for (int e = lane; e < s.experts; e += 32) {
      const float v = choices[e];
      if ((open >> (e / size) & 1U) != 0 && v > mine.value) mine = {v, e};
    }
    const int32_t at = min(route_best(mine).at, s.experts - 1);
    float here = 0.0F;
    for (int i = 0; i < kRouteScores; ++i) here = lane + 32 * i == at ? x[i] : here;
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

}  // namespace fathom::kernels
