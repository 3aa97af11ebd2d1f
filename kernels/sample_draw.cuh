// Draws: the first item, in the order of ids, at which the running sum of weights passes a share of
// their total. Sums are doubles in a fixed order.
#pragma once

#include "sample_chunks.cuh"

namespace fathom::kernels {

// Philox4x32-10 (Salmon et al., SC 2011), as the oracle draws: uniform in [0, 1), 53 bits.
__device__ inline double uniform_draw(uint32_t seed_low, uint32_t seed_high, uint32_t index) {
  uint32_t c[4] = {index, 0, 0, 0};
  uint32_t k[2] = {seed_low, seed_high};
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53U} * c[0];
    const uint64_t b = uint64_t{0xCD9E8D57U} * c[2];
    const uint32_t next[4] = {
        static_cast<uint32_t>(b >> 32) ^ c[1] ^ k[0], static_cast<uint32_t>(b),
        static_cast<uint32_t>(a >> 32) ^ c[3] ^ k[1], static_cast<uint32_t>(a)};
    for (int i = 0; i < 4; ++i) c[i] = next[i];
    k[0] += 0x9E3779B9U;
    k[1] += 0xBB67AE85U;
  }
  const uint64_t bits = (uint64_t{c[0]} << 21) | (c[1] >> 11);
  return static_cast<double>(bits) * 0x1p-53;
}

__device__ inline double warp_prefix(double x) {
  for (int offset = 1; offset < 32; offset *= 2) {
    const double before = __shfl_up_sync(kWholeWarp, x, offset);
    if (static_cast<int>(threadIdx.x % 32) >= offset) x += before;
  }
  return x;
}

// Sum of `mine` over all threads before this one; *total is that over all.
__device__ inline double block_prefix(double mine, double* total, SampleShared& sh) {
  const double inclusive = warp_prefix(mine);
  __syncthreads();
  if (threadIdx.x % 32 == 31) sh.sums[threadIdx.x / 32] = inclusive;
  __syncthreads();
  const double warps = warp_prefix(sh.sums[threadIdx.x % 32]);
  *total = __shfl_sync(kWholeWarp, warps, 31);
  const auto warp = static_cast<int>(threadIdx.x / 32);
  const double before = __shfl_sync(kWholeWarp, warps, warp > 0 ? warp - 1 : 0);
  return (warp > 0 ? before : 0.0) + inclusive - mine;
}

// The first of `count` items (weight(i), none negative) at which the running sum passes `share` of
// the total, or the last; *before: the sum of those ahead of it.
template <typename Weight>
__device__ int32_t pick(int32_t count, double share, Weight weight, double* before,
                        SampleShared& sh) {
  const int32_t each = (count + kSampleThreads - 1) / kSampleThreads;
  const int32_t begin = min(count, static_cast<int32_t>(threadIdx.x) * each);
  const int32_t end = min(count, begin + each);
  double mine = 0.0;
  for (int32_t i = begin; i < end; ++i) mine += weight(i);
  double total = 0.0;
  double sum = block_prefix(mine, &total, sh);
  if (threadIdx.x == 0) sh.token = count - 1;
  __syncthreads();
  const double target = share * total;
  int32_t found = count;
  double found_before = 0.0;
  for (int32_t i = begin; i < end && found == count; ++i) {
    found_before = sum;
    sum += weight(i);
    if (sum > target) found = i;
  }
  if (found < count) atomicMin(&sh.token, found);
  __syncthreads();
  const int32_t picked = sh.token;
  if (found == picked || (begin <= picked && picked < end && found == count)) sh.sum = found_before;
  __syncthreads();
  *before = sh.sum;
  return picked;
}

// From the whole vocabulary: a chunk by the chunks' weights, then a token of it. `peak` is the
// largest logit; sh.weight was measured at `factor`.
__device__ inline int32_t draw_from_chunks(const float* logits, int32_t vocab, float peak,
                                           float factor, double u, SampleShared& sh) {
  const auto weight = [&](int32_t c) {
    return static_cast<double>(sh.weight[c]) *
           exp(static_cast<double>((sh.peak[c] - peak) * factor));
  };
  const int32_t chunks = chunks_of(vocab);
  const double target = u * total_of(sh.weight, chunks, peak, factor, sh);
  double sum = 0.0;
  const int32_t chunk = pick(chunks, u, weight, &sum, sh);
  if (threadIdx.x < 32) {
    const ChunkValues values = load_chunk(logits, vocab, chunk);
    int32_t token = -1;
    int32_t last = chunk * kChunk;
    for (int j = 0; j < kChunk / 32 && token < 0; ++j) {
      const double p = static_cast<double>(expf((values.x[j] - peak) * factor));
      const double prefix = sum + warp_prefix(p);
      const unsigned passed = __ballot_sync(kWholeWarp, prefix > target && p > 0.0);
      const unsigned possible = __ballot_sync(kWholeWarp, p > 0.0);
      const int32_t first = chunk * kChunk + 32 * j;
      if (possible != 0) last = first + 31 - __clz(static_cast<int>(possible));
      if (passed != 0) token = first + __ffs(static_cast<int>(passed)) - 1;
      sum = __shfl_sync(kWholeWarp, prefix, 31);
    }
    if (threadIdx.x == 0) sh.token = token >= 0 ? token : last;
  }
  __syncthreads();
  return sh.token;
}

// From the first `kept` candidates of sh.keys, in the order of their ids.
__device__ inline int32_t draw_from_candidates(int32_t kept, float peak, float factor, double u,
                                               SampleShared& sh) {
  __syncthreads();
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i < kept; i += kSampleThreads) {
    const uint64_t key = sh.keys[i];
    const float p = expf((value_of(key) - peak) * factor);
    sh.keys[i] = key << 32 | __float_as_uint(p);  // the low half falls as the id grows
  }
  sort_down(sh.keys, kept);
  const auto weight = [&](int32_t i) {
    return static_cast<double>(__uint_as_float(static_cast<uint32_t>(sh.keys[i])));
  };
  double before = 0.0;
  const int32_t picked = pick(kept, u, weight, &before, sh);
  return id_of(sh.keys[picked] >> 32);
}

}  // namespace fathom::kernels
