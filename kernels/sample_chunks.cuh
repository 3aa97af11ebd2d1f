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

// The same, where the chunk is whole and lies on 16 bytes: a lane has four neighbours. What was
// read leaves the cache before what the product ahead of this wrote there.
__device__ inline ChunkValues load_whole_chunk(const float* logits, int32_t chunk) {
  const auto lane = static_cast<int32_t>(threadIdx.x % 32);
  const float4* from = reinterpret_cast<const float4*>(logits + chunk * kChunk) + lane;
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  float4 v;
  asm volatile("ld.global.L1::no_allocate.L2::cache_hint.v4.f32 {%0, %1, %2, %3}, [%4], %5;"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "l"(from), "l"(policy)
               : "memory");
  return {{v.x, v.y, v.z, v.w}};
}

// How many chunks load_whole_chunk may have.
__device__ inline int32_t whole_chunks(const float* logits, int32_t vocab) {
  return reinterpret_cast<uintptr_t>(logits) % 16 == 0 ? vocab / kChunk : 0;
}

// Largest of a warp's chunk; what is no number counts as impossible.
__device__ inline float chunk_peak(const ChunkValues& v) {
  const float mine = fmaxf(fmaxf(fmaxf(v.x[0], v.x[1]), fmaxf(v.x[2], v.x[3])), -INFINITY);
  return of_order_key(__reduce_max_sync(kWholeWarp, order_key(mine)));
}

__device__ inline float exp2_approximate(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// A lane's part of the sum of 2^((x - peak) * scale) over a chunk; 0 when nothing in it is
// possible.
__device__ inline float lane_sum(const ChunkValues& values, float peak, float scale) {
  const float from = peak == -INFINITY ? 0.0F : peak;
  float sum = 0.0F;
#pragma unroll
  for (int j = 0; j < kChunk / 32; ++j) sum += exp2_approximate((values.x[j] - from) * scale);
  return sum;
}

inline constexpr float kLog2E = 1.4426950408889634F;

__device__ inline void note_chunk(const ChunkValues& values, int32_t chunk, const ChunkSums& sums,
                                  SampleShared& sh) {
  const float peak = chunk_peak(values);
  const float weight =
      sums.weight ? warp_total(lane_sum(values, peak, sums.factor * kLog2E)) : 0.0F;
  const float mass = sums.mass ? warp_total(lane_sum(values, peak, kLog2E)) : 0.0F;
  if (threadIdx.x % 32 != 0) return;
  sh.peak[chunk] = peak;
  sh.weight[chunk] = weight;
  sh.mass[chunk] = mass;
}

inline constexpr int kChunksAtOnce = 4;  // of a warp, in flight while the four before are summed

// Where the numbers of chunks go.
struct ChunkArrays {
  float* peak;
  float* weight;
  float* mass;
};

struct ChunkGroup {
  ChunkValues values[kChunksAtOnce];
};

// Chunks first, first + kApart, ..., those past the last are the last.
template <int kApart = kSampleWarps>
__device__ void load_group(const float* logits, int32_t first, int32_t last, ChunkGroup& group) {
#pragma unroll
  for (int u = 0; u < kChunksAtOnce; ++u)
    group.values[u] = load_whole_chunk(logits, min(first + u * kApart, last));
}

// Sums over a warp of four numbers of each lane: a lane has the sum of number lane / 8.
__device__ inline float warp_totals(const float (&x)[kChunksAtOnce]) {
  const bool high = (threadIdx.x & 16U) != 0;
  const bool odd = (threadIdx.x & 8U) != 0;
  float a = (high ? x[2] : x[0]) + __shfl_xor_sync(kWholeWarp, high ? x[0] : x[2], 16);
  const float b = (high ? x[3] : x[1]) + __shfl_xor_sync(kWholeWarp, high ? x[1] : x[3], 16);
  a = (odd ? b : a) + __shfl_xor_sync(kWholeWarp, odd ? a : b, 8);
  for (int offset = 4; offset > 0; offset /= 2) a += __shfl_xor_sync(kWholeWarp, a, offset);
  return a;
}

template <int kApart = kSampleWarps>
__device__ void note_group(const ChunkGroup& group, int32_t first, int32_t count,
                           const ChunkSums& sums, const ChunkArrays& to) {
  float peaks[kChunksAtOnce];
  float parts[kChunksAtOnce];
#pragma unroll
  for (int u = 0; u < kChunksAtOnce; ++u) peaks[u] = chunk_peak(group.values[u]);
  const auto lane = static_cast<int32_t>(threadIdx.x % 32);
  const int32_t chunk = first + lane / 8 * kApart;
  const bool writes = lane % 8 == 0 && chunk < count;
  if (writes) {
    const float low = lane < 8 ? peaks[0] : peaks[1];
    const float high = lane < 24 ? peaks[2] : peaks[3];
    to.peak[chunk] = lane < 16 ? low : high;
  }
  if (sums.weight) {
#pragma unroll
    for (int u = 0; u < kChunksAtOnce; ++u)
      parts[u] = lane_sum(group.values[u], peaks[u], sums.factor * kLog2E);
    const float total = warp_totals(parts);
    if (writes) to.weight[chunk] = total;
  }
  if (sums.mass) {
#pragma unroll
    for (int u = 0; u < kChunksAtOnce; ++u) parts[u] = lane_sum(group.values[u], peaks[u], kLog2E);
    const float total = warp_totals(parts);
    if (writes) to.mass[chunk] = total;
  }
}

// All chunks of `logits`.
__device__ __noinline__ inline void measure(const float* logits, int32_t vocab, ChunkSums sums,
                                            SampleShared& sh) {
  assume_shared(&sh);
  constexpr int32_t kStep = kChunksAtOnce * kSampleWarps;
  const int32_t chunks = chunks_of(vocab);
  const int32_t whole = whole_chunks(logits, vocab);
  const auto warp = static_cast<int32_t>(threadIdx.x / 32);
  const ChunkArrays to{sh.peak, sh.weight, sh.mass};
  __syncthreads();
  if (warp < whole) {
    ChunkGroup even;
    ChunkGroup odd;
    load_group(logits, warp, whole - 1, even);
    for (int32_t first = warp; first < whole; first += 2 * kStep) {
      load_group(logits, first + kStep, whole - 1, odd);
      note_group(even, first, whole, sums, to);
      load_group(logits, first + 2 * kStep, whole - 1, even);
      note_group(odd, first + kStep, whole, sums, to);
    }
  }
  for (int32_t c = whole + warp; c < chunks; c += kSampleWarps)
    note_chunk(load_chunk(logits, vocab, c), c, sums, sh);
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

// Leaves in sh.listed the chunks that `wanted` names, in no order; sh.count is 0 after it.
template <typename Wanted>
__device__ inline void list_chunks(int32_t chunks, SampleShared& sh, const Wanted& wanted) {
  const auto lane = static_cast<int32_t>(threadIdx.x % 32);
  __syncthreads();
  if (threadIdx.x == 0) sh.count = sh.listed_count = 0;
  __syncthreads();
  for (int32_t first = 0; first < chunks; first += kSampleThreads) {
    const int32_t c = first + static_cast<int32_t>(threadIdx.x);
    const bool listed = c < chunks && wanted(c);
    const unsigned votes = __ballot_sync(kWholeWarp, listed);
    if (votes == 0) continue;
    int32_t at = 0;
    if (lane == 0) at = atomicAdd(&sh.listed_count, __popc(votes));
    at = __shfl_sync(kWholeWarp, at, 0) + __popc(votes & ((1U << lane) - 1));
    if (listed) sh.listed[at] = static_cast<uint16_t>(c);
  }
  __syncthreads();
}

// Leaves in sh.keys the ranked keys of the logits that are not below `least`, in no order. Returns
// their number; over kCandidatesMax: too many, and the keys are of no use.
__device__ __noinline__ inline int32_t gather(const float* logits, int32_t vocab, float least,
                                              SampleShared& sh) {
  assume_shared(&sh);
  const auto lane = static_cast<int32_t>(threadIdx.x % 32);
  const int32_t whole = whole_chunks(logits, vocab);
  list_chunks(chunks_of(vocab), sh, [&](int32_t c) { return sh.peak[c] >= least; });
  const int32_t listed = sh.listed_count;
#pragma unroll 2
  for (int32_t i = static_cast<int32_t>(threadIdx.x / 32); i < listed; i += kSampleWarps) {
    const int32_t c = sh.listed[i];
    const bool near = c < whole;  // a lane has neighbours
    const ChunkValues values = near ? load_whole_chunk(logits, c) : load_chunk(logits, vocab, c);
    const int32_t id = c * kChunk + (near ? 4 * lane : lane);
    const int32_t step = near ? 1 : 32;
#pragma unroll
    for (int j = 0; j < kChunk / 32; ++j) {
      const bool keep = id + step * j < vocab && values.x[j] >= least;
      const unsigned votes = __ballot_sync(kWholeWarp, keep);
      if (votes == 0) continue;
      int32_t at = 0;
      if (lane == 0) at = atomicAdd(&sh.count, __popc(votes));
      at = __shfl_sync(kWholeWarp, at, 0) + __popc(votes & ((1U << lane) - 1));
      if (keep && at < kCandidatesMax) sh.keys[at] = ranked_key(values.x[j], id + step * j);
    }
  }
  __syncthreads();
  return sh.count;
}

// The `rank`-th largest peak (from 1) or a little less, or -infinity when there are fewer chunks:
// bisection over the upper half of its key's bits, each thread holding its chunks' keys.
__device__ __noinline__ inline float peak_of_rank(int32_t rank, int32_t chunks,
                                                  const SampleShared& sh) {
  assume_shared(&sh);
  static_assert(kChunksMax == 2 * kSampleThreads);
  if (rank > chunks) return -INFINITY;
  const auto thread = static_cast<int32_t>(threadIdx.x);
  const uint32_t a = thread < chunks ? order_key(sh.peak[thread]) : 0;
  const bool two = chunks > kSampleThreads;
  const uint32_t b =
      thread + kSampleThreads < chunks ? order_key(sh.peak[thread + kSampleThreads]) : 0;
  uint32_t key = 0;  // the largest of its bits with at least `rank` peaks not below it
  for (int bit = 31; bit >= 16; --bit) {
    const uint32_t higher = key | 1U << bit;
    int32_t count = __syncthreads_count(a >= higher);
    if (two) count += __syncthreads_count(b >= higher);
    if (count >= rank) key = higher;
  }
  return key <= order_key(-INFINITY) ? -INFINITY : of_order_key(key);
}

}  // namespace fathom::kernels
