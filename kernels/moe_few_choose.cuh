// A token's choice of experts by one warp, as route_token.cuh, with all scores in registers: it
// stands on the way between two products.
#pragma once

#include "moe.h"
#include "moe_few_parts.cuh"
#include "route_token.cuh"

namespace fathom::kernels {

// Floats in the order of unsigned integers.
__device__ inline uint32_t ordered(float x) {
  const uint32_t bits = __float_as_uint(x + 0.0F);
  return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}

// The place of a warp's largest value, of equals the lowest.
__device__ inline int32_t warp_best(float value, int32_t at) {
  const uint32_t key = ordered(value);
  const uint32_t most = __reduce_max_sync(0xFFFFFFFFU, key);
  return __reduce_min_sync(0xFFFFFFFFU, key == most ? at : 0x7FFFFFFF);
}

// x[i]: the score of expert lane + 32 i, of the router's raw[i]; 0 past the last.
template <int kEach>
__device__ void score_experts(const RouterShape& s, const float (&raw)[kEach], float (&x)[kEach]) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  if (s.sigmoid) {
#pragma unroll
    for (int i = 0; i < kEach; ++i)
      x[i] = lane + 32 * i < s.experts ? 1.0F / (1.0F + expf(-raw[i])) : 0.0F;
    return;
  }
  float most = -INFINITY;
#pragma unroll
  for (int i = 0; i < kEach; ++i) most = fmaxf(most, raw[i]);
  most = warp_max(most);
  float sum = 0.0F;
#pragma unroll
  for (int i = 0; i < kEach; ++i) sum += x[i] = expf(raw[i] - most);
  sum = warp_sum(sum);
#pragma unroll
  for (int i = 0; i < kEach; ++i) x[i] /= sum;
}

// Bit g is set for every group that the token may choose from, where a group is 32 experts.
template <int kEach>
__device__ uint32_t open_wide_groups(const RouterShape& s, const float (&v)[kEach]) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  float mine = -INFINITY;  // lane g: of group g
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    if (i >= s.groups) break;
    const int32_t at = warp_best(v[i], lane);
    float value = __shfl_sync(0xFFFFFFFFU, v[i], at);
    if (s.top_two_sum) {
      const float others = lane == at ? -INFINITY : v[i];
      value += __shfl_sync(0xFFFFFFFFU, v[i], warp_best(others, lane));
    }
    if (lane == i) mine = value;
  }
  uint32_t open = 0;
  for (int n = 0; n < s.groups_per_token; ++n) {
    const bool taken = (open >> lane & 1U) != 0 || lane >= s.groups;
    open |= 1U << (warp_best(taken ? -INFINITY : mine, taken ? 64 + lane : lane) & 31);
  }
  return open;
}

// posts: where scores are waited for; null: they are there. scratch: [experts] of this warp, used
// where groups are not of 32. Lane n < k has choice n's place
// among the choices in order of expert, the expert and its weight.
struct Chosen {
  int32_t place;
  int32_t expert;
  float weight;
};
template <int kEach>
__device__ __noinline__ Chosen choose_experts(const RouterShape& s, const float* scores,
                                              const uint32_t* posts, const float* bias,
                                              float* scratch) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  float raw[kEach];
  float v[kEach];
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int e = lane + 32 * i;
    if (posts == nullptr) raw[i] = e < s.experts ? __ldcg(scores + e) : -INFINITY;
    v[i] = bias != nullptr && e < s.experts ? bias[e] : 0.0F;
  }
  if (posts != nullptr) await_scores<kEach>(posts, s.experts, raw);
  float x[kEach];
  score_experts<kEach>(s, raw, x);
#pragma unroll
  for (int i = 0; i < kEach; ++i)
    v[i] = lane + 32 * i < s.experts ? choosable(x[i] + v[i]) : -INFINITY;
  if (s.groups > 1) {
    const int size = s.experts / s.groups;
    uint32_t open = 0;
    if (size == 32) {
      open = open_wide_groups<kEach>(s, v);
    } else {
#pragma unroll
      for (int i = 0; i < kEach; ++i)
        if (lane + 32 * i < s.experts) scratch[lane + 32 * i] = v[i];
      __syncwarp();
      open = open_groups(s, scratch);
    }
#pragma unroll
    for (int i = 0; i < kEach; ++i)
      if ((open >> min((lane + 32 * i) / size, 31) & 1U) == 0) v[i] = -INFINITY;
  }
  Chosen mine{0, 0x7FFFFFFF, 0.0F};
  float sum = 0.0F;
  for (int n = 0; n < s.experts_per_token; ++n) {
    float best = -INFINITY;
    float score = 0.0F;
    int at = 0x7FFFFFFF;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      if (v[i] > best) best = v[i], score = x[i], at = lane + 32 * i;
    }
    at = min(warp_best(best, at), s.experts - 1);
    score = __shfl_sync(0xFFFFFFFFU, score, at & 31);
#pragma unroll
    for (int i = 0; i < kEach; ++i)
      if (lane + 32 * i == at) v[i] = -INFINITY;
    if (lane == n) mine.expert = at, mine.weight = score;
    sum += score;
  }
  for (int n = 0; n < s.experts_per_token; ++n)
    mine.place += __shfl_sync(0xFFFFFFFFU, mine.expert, n) < mine.expert ? 1 : 0;
  mine.weight *= s.normalize ? s.scale / (sum + 1e-20F) : s.scale;
  return mine;
}

__device__ inline Chosen choose_experts(const RouterShape& s, const float* scores,
                                        const uint32_t* posts, const float* bias, float* scratch) {
  if (s.experts <= 64) return choose_experts<2>(s, scores, posts, bias, scratch);
  if (s.experts <= 256) return choose_experts<8>(s, scores, posts, bias, scratch);
  return choose_experts<kMoeExpertsMax / 32>(s, scores, posts, bias, scratch);
}

}  // namespace fathom::kernels
