// One pass over a position's logits: the peak and the weight of every chunk of 128. Most of what
// sampling asks follows from these: the k largest logits lie in the chunks whose peaks are not
// below the k-th largest peak, and a draw from the whole vocabulary needs the logits of one chunk.
#pragma once

#include "sample_block.cuh"

namespace fathom::kernels {

// What a pass computes beside the peaks.
struct ChunkSums {
  bool weight = false;  // at `factor` = 1 / temperature
  bool mass = false;    // at temperature 1
  float factor = 1.0F;
};

__device__ inline int32_t chunks_of(int32_t vocab) { return (vocab + kChunk - 1) / kChunk; }

struct ChunkValues {
  float x[kChunk / 32];
};

__device__ inline ChunkValues load_chunk(const float* logits, int32_t vocab, int32_t chunk) {
  ChunkValues values;
  const int32_t first = chunk * kChunk + static_cast<int32_t>(threadIdx.x % 32);
#pragma unroll
  for (int j = 0; j < kChunk / 32; ++j) {
    const int32_t id = first + 32 * j;
    values.x[j] = id < vocab ? logits[id] : -INFINITY;
  }
  return values;
}

// Sum of exp((x - peak) * factor) over a warp's chunk; 0 when nothing in it is possible.
__device__ inline float chunk_sum(const ChunkValues& values, float peak, float factor) {
  if (peak == -INFINITY) return 0.0F;
  const float scale = factor * 1.4426950408889634F;  // log2 e
  float sum = 0.0F;
#pragma unroll
  for (int j = 0; j < kChunk / 32; ++j) sum += exp2f((values.x[j] - peak) * scale);
  return warp_total(sum);
}

__device__ inline void note_chunk(const ChunkValues& values, int32_t chunk, const ChunkSums& sums,
                                  SampleShared& sh) {
  float peak = fmaxf(fmaxf(values.x[0], values.x[1]), fmaxf(values.x[2], values.x[3]));
  for (int offset = 16; offset > 0; offset /= 2)
    peak = fmaxf(peak, __shfl_xor_sync(kWholeWarp, peak, offset));
  const float weight = sums.weight ? chunk_sum(values, peak, sums.factor) : 0.0F;
  const float mass = sums.mass ? chunk_sum(values, peak, 1.0F) : 0.0F;
  if (threadIdx.x % 32 != 0) return;
  sh.peak[chunk] = peak;
  sh.weight[chunk] = weight;
  sh.mass[chunk] = mass;
}

inline constexpr int kChunksAtOnce = 4;  // of a warp, in flight while the four before are summed

struct ChunkGroup {
  ChunkValues values[kChunksAtOnce];
};

__device__ inline void load_group(const float* logits, int32_t vocab, int32_t first,
                                  ChunkGroup& group) {
#pragma unroll
  for (int u = 0; u < kChunksAtOnce; ++u)
    group.values[u] = load_chunk(logits, vocab, first + u * kSampleWarps);
}

// All chunks of `logits`.
__device__ inline void measure(const float* logits, int32_t vocab, const ChunkSums& sums,
                               SampleShared& sh) {
  const int32_t chunks = chunks_of(vocab);
  constexpr int32_t kStep = kChunksAtOnce * kSampleWarps;
  __syncthreads();
  const auto warp = static_cast<int32_t>(threadIdx.x / 32);
  ChunkGroup now;
  load_group(logits, vocab, warp, now);
  for (int32_t first = warp; first < chunks; first += kStep) {
    ChunkGroup next;
    load_group(logits, vocab, first + kStep, next);
#pragma unroll
    for (int u = 0; u < kChunksAtOnce; ++u) {
      const int32_t chunk = first + u * kSampleWarps;
      if (chunk < chunks) note_chunk(now.values[u], chunk, sums, sh);
    }
    now = next;
  }
  __syncthreads();
}

// The chunk with the largest peak, the first of equals: a ranked key of (peak, chunk).
__device__ inline uint64_t top_chunk(int32_t chunks, SampleShared& sh) {
  uint64_t best = 0;
  for (int32_t c = static_cast<int32_t>(threadIdx.x); c < chunks; c += kSampleThreads) {
    const uint64_t key = ranked_key(sh.peak[c], c);
    best = key > best ? key : best;
  }
  return block_top(best, sh);
}

// Sum over chunks of sums[c] brought to a common peak, in a fixed order.
__device__ inline double total_of(const float* sums, int32_t chunks, float peak, float factor,
                                  SampleShared& sh) {
  double mine = 0.0;
  for (int32_t c = static_cast<int32_t>(threadIdx.x); c < chunks; c += kSampleThreads)
    mine += static_cast<double>(sums[c]) * exp(static_cast<double>((sh.peak[c] - peak) * factor));
  return block_total(mine, sh);
}

// Leaves in sh.keys the ranked keys of the logits that are not below `least`, in no order. Returns
// their number; over kCandidatesMax: too many, and the keys are of no use.
__device__ inline int32_t gather(const float* logits, int32_t vocab, float least,
                                 SampleShared& sh) {
  const auto lane = static_cast<int32_t>(threadIdx.x % 32);
  __syncthreads();
  if (threadIdx.x == 0) sh.count = 0;
  __syncthreads();
  for (int32_t c = static_cast<int32_t>(threadIdx.x / 32); c < chunks_of(vocab);
       c += kSampleWarps) {
    if (!(sh.peak[c] >= least)) continue;
    const ChunkValues values = load_chunk(logits, vocab, c);
#pragma unroll
    for (int j = 0; j < kChunk / 32; ++j) {
      const int32_t id = c * kChunk + 32 * j + lane;
      const bool keep = id < vocab && values.x[j] >= least;
      const unsigned votes = __ballot_sync(kWholeWarp, keep);
      if (votes == 0) continue;
      int32_t at = 0;
      if (lane == 0) at = atomicAdd(&sh.count, __popc(votes));
      at = __shfl_sync(kWholeWarp, at, 0) + __popc(votes & ((1U << lane) - 1));
      if (keep && at < kCandidatesMax) sh.keys[at] = ranked_key(values.x[j], id);
    }
  }
  __syncthreads();
  return sh.count;
}

// The `rank`-th largest peak (from 1), or -infinity when there are fewer chunks: bisection over the
// bits of its key, each thread holding its chunks' keys.
__device__ inline float peak_of_rank(int32_t rank, int32_t chunks, const SampleShared& sh) {
  static_assert(kChunksMax == 2 * kSampleThreads);
  if (rank > chunks) return -INFINITY;
  const auto thread = static_cast<int32_t>(threadIdx.x);
  const uint32_t a = thread < chunks ? order_key(sh.peak[thread]) : 0;
  const bool two = chunks > kSampleThreads;
  const uint32_t b =
      thread + kSampleThreads < chunks ? order_key(sh.peak[thread + kSampleThreads]) : 0;
  uint32_t key = 0;  // the largest with at least `rank` peaks not below it
  for (int bit = 31; bit >= 0; --bit) {
    const uint32_t higher = key | 1U << bit;
    int32_t count = __syncthreads_count(a >= higher);
    if (two) count += __syncthreads_count(b >= higher);
    if (count >= rank) key = higher;
  }
  return of_order_key(key);
}

}  // namespace fathom::kernels
