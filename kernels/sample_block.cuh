// What a block of sampling threads shares: reductions in a fixed order, and sorting in shared
// memory. Every function is called by all kSampleThreads threads and begins with a barrier.
#pragma once

#include <cstdint>

namespace fathom::kernels {

inline constexpr int kSampleThreads = 1024;
inline constexpr int kSampleWarps = kSampleThreads / 32;
inline constexpr int kChunk = 128;           // logits that one warp takes at a time
inline constexpr int kChunksMax = 2048;      // so a vocabulary of 262,144 at most
inline constexpr int kCandidatesMax = 4096;  // tokens that top-k, top-p or min-p may keep here
inline constexpr unsigned kWholeWarp = 0xFFFFFFFFU;

struct SampleShared {
  float peak[kChunksMax];    // largest logit of each chunk
  float weight[kChunksMax];  // sum of exp((x - peak) / temperature)
  float mass[kChunksMax];    // sum of exp(x - peak), for logprobs
  uint64_t keys[kCandidatesMax];
  double sums[kSampleWarps];
  uint64_t tops[kSampleWarps];
  uint16_t listed[kChunksMax];  // chunks that `gather` reads again
  double sum;
  int32_t listed_count;
  int32_t count;
  int32_t token;
};

// For functions that are not inlined, whose pointers may else lie anywhere.
__device__ inline void assume_shared(const void* p) { __builtin_assume(__isShared(p)); }

// Monotone map of floats to unsigned integers, and back.
__device__ inline uint32_t order_key(float x) {
  const uint32_t bits = __float_as_uint(x);
  return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}
__device__ inline float of_order_key(uint32_t key) {
  return __uint_as_float((key & 0x80000000U) != 0 ? key & 0x7FFFFFFFU : ~key);
}

// Larger values first, among equals lower ids first; 0 is below every key.
__device__ inline uint64_t ranked_key(float value, int32_t id) {
  return uint64_t{order_key(value)} << 32 | (0xFFFFFFFFU - static_cast<uint32_t>(id));
}
__device__ inline float value_of(uint64_t key) {
  return of_order_key(static_cast<uint32_t>(key >> 32));
}
__device__ inline int32_t id_of(uint64_t key) {
  return static_cast<int32_t>(0xFFFFFFFFU - static_cast<uint32_t>(key));
}

template <typename T>
__device__ T warp_total(T x) {
  for (int offset = 16; offset > 0; offset /= 2) x += __shfl_xor_sync(kWholeWarp, x, offset);
  return x;
}

__device__ inline double block_total(double x, SampleShared& sh) {
  x = warp_total(x);
  __syncthreads();
  if (threadIdx.x % 32 == 0) sh.sums[threadIdx.x / 32] = x;
  __syncthreads();
  return warp_total(sh.sums[threadIdx.x % 32]);
}

__device__ inline uint64_t block_top(uint64_t x, SampleShared& sh) {
  const auto largest = [](uint64_t mine) {
    for (int offset = 16; offset > 0; offset /= 2) {
      const uint64_t other = __shfl_xor_sync(kWholeWarp, mine, offset);
      mine = other > mine ? other : mine;
    }
    return mine;
  };
  x = largest(x);
  __syncthreads();
  if (threadIdx.x % 32 == 0) sh.tops[threadIdx.x / 32] = x;
  __syncthreads();
  return largest(sh.tops[threadIdx.x % 32]);
}

inline constexpr int32_t kFew = 256;  // candidates that a warp and a count can deal with

// Sorts few keys, all different, by counting for each how many are larger.
__device__ inline void sort_few_down(uint64_t* keys, int32_t count) {
  const auto thread = static_cast<int32_t>(threadIdx.x);
  __syncthreads();
  const uint64_t mine = thread < count ? keys[thread] : 0;
  int32_t larger = 0;
  for (int32_t i = 0; thread < count && i < count; ++i) larger += keys[i] > mine ? 1 : 0;
  __syncthreads();
  if (thread < count) keys[larger] = mine;
  __syncthreads();
}

// Sorts keys[0, count), all different, from large to small; keys up to the next power of two are
// overwritten.
__device__ inline void sort_down(uint64_t* keys, int32_t count) {
  if (count <= kFew) return sort_few_down(keys, count);
  int32_t size = 2 * kFew;
  while (size < count) size *= 2;
  __syncthreads();
  for (int32_t i = count + static_cast<int32_t>(threadIdx.x); i < size; i += kSampleThreads)
    keys[i] = 0;
  for (int32_t run = 2; run <= size; run *= 2) {
    for (int32_t step = run / 2; step > 0; step /= 2) {
      __syncthreads();
      for (int32_t i = static_cast<int32_t>(threadIdx.x); i < size / 2; i += kSampleThreads) {
        const int32_t low = 2 * step * (i / step) + i % step;
        const bool down = (low & run) == 0;
        const uint64_t a = keys[low];
        const uint64_t b = keys[low + step];
        if ((a < b) == down) {
          keys[low] = b;
          keys[low + step] = a;
        }
      }
    }
  }
  __syncthreads();
}

}  // namespace fathom::kernels
