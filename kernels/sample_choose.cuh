// The choice of one token from a position's logits and its chunks (docs/kernels/sampler.md).
#pragma once

#include "sample_general.cuh"
#include "steps.h"

namespace fathom::kernels {

struct ChooseArrays {
  const float* logits;  // [vocab] after bias, penalties and masks
  int32_t vocab;
  float* probabilities;  // [vocab] scratch
  float* copy;           // [vocab] scratch
};

// The lowest id of the largest logits, given their chunk.
__device__ inline int32_t first_at_peak(const float* logits, int32_t vocab, uint64_t top,
                                        SampleShared& sh) {
  __syncthreads();
  if (threadIdx.x < 32) {
    const int32_t chunk = id_of(top);
    const ChunkValues values = load_chunk(logits, vocab, chunk);
    int32_t token = 0;
    for (int j = kChunk / 32 - 1; j >= 0; --j) {
      const unsigned at = __ballot_sync(kWholeWarp, values.x[j] == value_of(top));
      if (at != 0) token = chunk * kChunk + 32 * j + __ffs(static_cast<int>(at)) - 1;
    }
    if (threadIdx.x == 0) sh.token = token;
  }
  __syncthreads();
  return sh.token;
}

// How many of the sorted candidates [0, count) stay under top-p and min-p. `whole`: the weight that
// top_p is a share of; 0: that of the candidates.
__device__ inline int32_t keep_likely(const SlotSamplingData& c, int32_t count, float peak,
                                      float factor, double whole, SampleShared& sh) {
  constexpr int kEach = kCandidatesMax / kSampleThreads;
  float p[kEach];
  double mine = 0.0;
  const auto begin = static_cast<int32_t>(threadIdx.x) * kEach;
  for (int j = 0; j < kEach; ++j) {
    p[j] = begin + j < count ? expf((value_of(sh.keys[begin + j]) - peak) * factor) : 0.0F;
    mine += static_cast<double>(p[j]);
  }
  double total = 0.0;
  double ahead = block_prefix(mine, &total, sh);
  const double goal = static_cast<double>(c.top_p) * (whole > 0.0 ? whole : total);
  double kept = 0.0;
  for (int j = 0; j < kEach; ++j) {
    const bool likely = c.top_p >= 1.0F || ahead < goal;
    const bool first = begin + j == 0;
    kept += begin + j < count && (first || (likely && p[j] > 0.0F && p[j] >= c.min_p)) ? 1.0 : 0.0;
    ahead += static_cast<double>(p[j]);
  }
  return static_cast<int32_t>(block_total(kept, sh));
}

// Candidates for top-p over the whole vocabulary: more and more of the largest, until they weigh
// top_p of it. Returns their number; over kCandidatesMax: they do not fit.
__device__ __noinline__ inline int32_t gather_for_top_p(const SlotSamplingData& c,
                                                        const ChooseArrays& a, float peak,
                                                        float factor, double whole,
                                                        SampleShared& sh) {
  assume_shared(&sh);
  const int32_t chunks = chunks_of(a.vocab);
  const int32_t ranks[] = {chunks / 20 + 1, chunks / 2 + 1, chunks * 9 / 10 + 1, chunks + 1};
  for (const int32_t rank : ranks) {
    const int32_t count = gather(a.logits, a.vocab, peak_of_rank(rank, chunks, sh), sh);
    if (count > kCandidatesMax) return count;
    double mine = 0.0;
    for (int32_t k = static_cast<int32_t>(threadIdx.x); k < count; k += kSampleThreads)
      mine += static_cast<double>(expf((value_of(sh.keys[k]) - peak) * factor));
    if (block_total(mine, sh) >= static_cast<double>(c.top_p) * whole || count == a.vocab)
      return count;
  }
  return kCandidatesMax + 1;
}

// Leaves the tokens that top-k, top-p and min-p may keep in sh.keys, the likeliest first. Returns
// their number; 0: they do not fit.
__device__ inline int32_t gather_candidates(const SlotSamplingData& c, const ChooseArrays& a,
                                            float peak, float factor, double whole,
                                            SampleShared& sh) {
  const int32_t chunks = chunks_of(a.vocab);
  const bool k_on = c.top_k > 0 && c.top_k < a.vocab;
  int32_t count = 0;
  if (k_on) {
    if (c.top_k > kCandidatesMax) return 0;
    count = gather(a.logits, a.vocab, peak_of_rank(c.top_k, chunks, sh), sh);
  } else if (c.top_p < 1.0F) {
    count = gather_for_top_p(c, a, peak, factor, whole, sh);
  } else {  // a little below what min-p keeps; the exact comparison follows
    count = gather(a.logits, a.vocab, peak + logf(c.min_p * 0.99F) / factor, sh);
  }
  if (count > kCandidatesMax) return 0;
  sort_down(sh.keys, count);
  return k_on ? min(count, c.top_k) : count;
}

// The draw among sorted candidates [0, count): keep_likely's choice, then in the order of ids.
__device__ __noinline__ inline int32_t choose_of_many(const SlotSamplingData& c, int32_t count,
                                                      float peak, float factor, double whole,
                                                      double u, SampleShared& sh) {
  assume_shared(&sh);
  const int32_t kept = keep_likely(c, count, peak, factor, whole, sh);
  return draw_from_candidates(kept, peak, factor, u, sh);
}

// The same of at most kFew: one warp says how many stay, and each that stays sums those of lower
// ids.
__device__ inline int32_t choose_of_few(const SlotSamplingData& c, int32_t count, float peak,
                                        float factor, double whole, double u, SampleShared& sh) {
  constexpr int kEach = kFew / 32;
  if (threadIdx.x < 32) {
    const auto begin = static_cast<int32_t>(threadIdx.x) * kEach;
    float p[kEach];
    double mine = 0.0;
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      p[j] = begin + j < count ? expf((value_of(sh.keys[begin + j]) - peak) * factor) : 0.0F;
      mine += static_cast<double>(p[j]);
    }
    const double inclusive = warp_prefix(mine);
    const double total = __shfl_sync(kWholeWarp, inclusive, 31);
    const double goal = static_cast<double>(c.top_p) * (whole > 0.0 ? whole : total);
    double ahead = inclusive - mine;
    int kept = 0;
#pragma unroll
    for (int j = 0; j < kEach; ++j) {
      if (begin + j >= count) break;
      const bool likely = (c.top_p >= 1.0F || ahead < goal) && p[j] > 0.0F && p[j] >= c.min_p;
      kept += likely || begin + j == 0 ? 1 : 0;
      ahead += static_cast<double>(p[j]);
      sh.keys[begin + j] = sh.keys[begin + j] << 32 | __float_as_uint(p[j]);
    }
    kept = __reduce_add_sync(kWholeWarp, kept);
    if (threadIdx.x == 0) {
      sh.count = kept;
      sh.token = INT32_MAX;
    }
  }
  __syncthreads();
  const int32_t kept = sh.count;
  if (static_cast<int32_t>(threadIdx.x) < kept) {
    const uint64_t own = sh.keys[threadIdx.x];
    double total = 0.0;
    double before = 0.0;
    bool last = true;
    for (int32_t i = 0; i < kept; ++i) {
      const uint64_t other = sh.keys[i];  // its upper half falls as the id grows
      const auto p = static_cast<double>(__uint_as_float(static_cast<uint32_t>(other)));
      total += p;
      if (other >> 32 > own >> 32) before += p;
      if (other >> 32 < own >> 32) last = false;
    }
    before += static_cast<double>(__uint_as_float(static_cast<uint32_t>(own)));
    if (last || before > u * total) atomicMin(&sh.token, id_of(own >> 32));
  }
  __syncthreads();
  return sh.token;
}

// sh.peak and, where the temperature is over 0, sh.weight describe a.logits.
__device__ inline int32_t choose(const SlotSamplingData& c, int32_t token_index,
                                 const ChooseArrays& a, SampleShared& sh) {
  const int32_t chunks = chunks_of(a.vocab);
  const uint64_t top = top_chunk(chunks, sh);
  const float peak = value_of(top);
  if (c.temperature <= 0.0F || !isfinite(peak)) return first_at_peak(a.logits, a.vocab, top, sh);
  const float factor = 1.0F / fmaxf(c.temperature, 1e-5F);
  const double u = uniform_draw(c.seed_low, c.seed_high, static_cast<uint32_t>(token_index));
  const bool k_on = c.top_k > 0 && c.top_k < a.vocab;
  if (!k_on && c.top_p >= 1.0F && c.min_p <= 0.0F)
    return draw_from_chunks(a.logits, a.vocab, peak, factor, u, sh);
  const double whole = k_on ? 0.0 : total_of(sh.weight, chunks, peak, factor, sh);
  const int32_t count = gather_candidates(c, a, peak, factor, whole, sh);
  if (count == 0)
    return choose_general(c, a.logits, a.vocab, peak, factor, u, a.probabilities, a.copy, sh);
  if (count <= kFew) return choose_of_few(c, count, peak, factor, whole, u, sh);
  return choose_of_many(c, count, peak, factor, whole, u, sh);
}

}  // namespace fathom::kernels
