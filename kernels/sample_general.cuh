// Top-k and top-p of any size, over all of the vocabulary in device memory, pass after pass: for
// lists that do not fit in shared memory.
#pragma once

#include "sample_draw.cuh"
#include "steps.h"

namespace fathom::kernels {

// The smallest key T such that `weight` of the elements with key > T is below `goal`: everything
// above T is kept whole, elements equal to T in part. Bisection over the keys' 32 bits.
template <typename Weight>
__device__ uint32_t threshold_key(const float* x, int32_t n, double goal, SampleShared& sh,
                                  Weight weight) {
  uint32_t low = 0;
  uint32_t high = 0xFFFFFFFFU;
  while (low < high) {
    const uint32_t middle = low + (high - low) / 2;
    double above = 0.0;
    for (int32_t i = static_cast<int32_t>(threadIdx.x); i < n; i += kSampleThreads) {
      if (order_key(x[i]) > middle) above += weight(i);
    }
    if (block_total(above, sh) < goal) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

// Zeroes p below the threshold; of the elements equal to it, the first `kept` by id stay.
__device__ inline void drop_below(const float* x, float* p, int32_t n, uint32_t key, double kept,
                                  SampleShared& sh) {
  double equal = 0.0;
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i < n; i += kSampleThreads) {
    if (order_key(x[i]) < key) p[i] = 0.0F;
    equal += order_key(x[i]) == key ? 1.0 : 0.0;
  }
  equal = block_total(equal, sh);
  if (threadIdx.x == 0 && equal > kept) {
    for (int32_t i = 0; i < n; ++i) {
      if (order_key(x[i]) != key) continue;
      if (kept <= 0.0) p[i] = 0.0F;
      kept -= 1.0;
    }
  }
  __syncthreads();
}

__device__ inline void keep_top_k(int32_t k, const float* logits, float* p, int32_t n,
                                  SampleShared& sh) {
  const uint32_t key = threshold_key(logits, n, k, sh, [](int32_t) { return 1.0; });
  double above = 0.0;
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i < n; i += kSampleThreads)
    above += order_key(logits[i]) > key ? 1.0 : 0.0;
  drop_below(logits, p, n, key, k - block_total(above, sh), sh);
}

__device__ inline void keep_top_p(float top_p, float* p, float* copy, int32_t n, SampleShared& sh) {
  double total = 0.0;
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i < n; i += kSampleThreads) {
    total += static_cast<double>(p[i]);
    copy[i] = p[i];
  }
  const double goal = static_cast<double>(top_p) * block_total(total, sh);
  const auto weight = [&](int32_t i) { return static_cast<double>(copy[i]); };
  const uint32_t key = threshold_key(copy, n, goal, sh, weight);
  double above = 0.0;
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i < n; i += kSampleThreads)
    above += order_key(copy[i]) > key ? static_cast<double>(copy[i]) : 0.0;
  const double sum = block_total(above, sh);
  const auto each = static_cast<double>(of_order_key(key));
  const double at_least = sum == 0.0 ? 1.0 : 0.0;
  const double kept = each > 0.0 ? fmax(ceil((goal - sum) / each), at_least) : 0.0;
  drop_below(copy, p, n, key, kept, sh);
}

// p and copy: [vocab] in device memory.
__device__ __noinline__ inline int32_t choose_general(const SlotSamplingData& c,
                                                      const float* logits, int32_t vocab,
                                                      float peak, float factor, double u, float* p,
                                                      float* copy, SampleShared& sh) {
  assume_shared(&sh);
  __syncthreads();
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i < vocab; i += kSampleThreads)
    p[i] = expf((logits[i] - peak) * factor);
  __syncthreads();
  if (c.top_k > 0 && c.top_k < vocab) keep_top_k(c.top_k, logits, p, vocab, sh);
  if (c.top_p < 1.0F) keep_top_p(c.top_p, p, copy, vocab, sh);
  const auto weight = [&](int32_t i) { return p[i] >= c.min_p ? static_cast<double>(p[i]) : 0.0; };
  double before = 0.0;
  return pick(vocab, u, weight, &before, sh);
}

}  // namespace fathom::kernels
