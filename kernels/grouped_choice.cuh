// A token's choice of experts by one warp, as route_token.cuh makes it, with the scores in
// registers: it stands between two products.
#pragma once

#include "route_token.cuh"

namespace fathom::kernels {

// Floats in the order of unsigned integers.
__device__ inline uint32_t ordered_bits(float x) {
  const uint32_t bits = __float_as_uint(x + 0.0F);
  return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}

// kEach: scores of a lane, expert lane + 32 i.
template <int kEach>
struct GroupedChoice {
  const RouterShape& s;
  int lane;
  float x[kEach];       // raw scores, then the router's function of them
  float choice[kEach];  // what is chosen by: -infinity past the last

  __device__ void score(const float* bias) {
    float most = -INFINITY;
    float sum = 0.0F;
#pragma unroll
    for (int i = 0; i < kEach; ++i) most = fmaxf(most, x[i]);
    if (!s.sigmoid) most = warp_max(most);
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const bool here = lane + 32 * i < s.experts;
      if (s.sigmoid) {
        x[i] = here ? 1.0F / (1.0F + expf(-x[i])) : 0.0F;
      } else {
        sum += x[i] = here ? expf(x[i] - most) : 0.0F;
      }
    }
    if (!s.sigmoid) sum = warp_sum(sum);
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int e = lane + 32 * i;
      if (!s.sigmoid) x[i] /= sum;
      choice[i] =
          e < s.experts ? choosable(x[i] + (bias != nullptr ? bias[e] : 0.0F)) : -INFINITY;
    }
  }

  // Groups that the token may not choose from are closed. scratch: [experts] of this warp.
  __device__ void close_groups(float* scratch) {
    if (s.groups == 1) return;
#pragma unroll
    for (int i = 0; i < kEach; ++i)
      if (lane + 32 * i < s.experts) scratch[lane + 32 * i] = choice[i];
    __syncwarp();
    const uint32_t open = open_groups(s, scratch);
    const int size = s.experts / s.groups;
#pragma unroll
    for (int i = 0; i < kEach; ++i)
      if ((open >> min((lane + 32 * i) / size, 31) & 1U) == 0) choice[i] = -INFINITY;
  }

  // The expert of the largest choice, of equals the lowest, which is then taken; and its score.
  __device__ int32_t take_best(float& score) {
    uint32_t best = 0;
    int32_t at = 0x7FFFFFFF;
    float mine = 0.0F;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const uint32_t bits = ordered_bits(choice[i]);
      if (bits > best) best = bits, at = lane + 32 * i, mine = x[i];
    }
    const uint32_t most = __reduce_max_sync(0xFFFFFFFFU, best);
    at = __reduce_min_sync(0xFFFFFFFFU, best == most ? at : 0x7FFFFFFF);
    at = min(at, s.experts - 1);
    score = __shfl_sync(0xFFFFFFFFU, mine, at % 32);
#pragma unroll
    for (int i = 0; i < kEach; ++i)
      if (lane + 32 * i == at) choice[i] = -INFINITY;
    return at;
  }

  // Lane n < k returns the expert of choice n; ids and weights are written in the order of ids.
  __device__ int32_t choose(int32_t* ids, float* weights) {
    int32_t expert = 0x7FFFFFFF;
    float weight = 0.0F;
    float sum = 0.0F;
    for (int n = 0; n < s.experts_per_token; ++n) {
      float score = 0.0F;
      const int32_t at = take_best(score);
      if (lane == n) expert = at, weight = score;
      sum += score;
    }
    int rank = 0;
    for (int n = 0; n < s.experts_per_token; ++n)
      rank += __shfl_sync(0xFFFFFFFFU, expert, n) < expert ? 1 : 0;
    if (lane < s.experts_per_token) {
      ids[rank] = expert;
      weights[rank] = weight * (s.normalize ? s.scale / (sum + 1e-20F) : s.scale);
    }
    return expert;
  }
};

}  // namespace fathom::kernels
