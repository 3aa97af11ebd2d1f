// Sampling: one block a row of the batch. The order of application and the tie-breaks are the
// oracle's (src/ops/cpu/sampler.cpp); sums run in double in a fixed order, so a draw depends on its
// row alone.
#include "number.cuh"
#include "steps.h"

namespace fathom::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int32_t kSeen = 1 << 30;  // in counts: the token occurs in prompt or answer

struct Shared {
  double sums[kThreads];
  float best[kThreads];
  int32_t at[kThreads];
  int32_t token;
};

__device__ double block_total(double x, Shared& sh) {
  __syncthreads();
  sh.sums[threadIdx.x] = x;
  __syncthreads();
  for (int width = kThreads / 2; width > 0; width /= 2) {
    if (static_cast<int>(threadIdx.x) < width) sh.sums[threadIdx.x] += sh.sums[threadIdx.x + width];
    __syncthreads();
  }
  return sh.sums[0];
}

// Largest value and its lowest index over [0, n).
__device__ void block_argmax(const float* x, int32_t n, Shared& sh, float& best, int32_t& at) {
  float mine = -INFINITY;
  int32_t mine_at = n;
  for (int32_t i = threadIdx.x; i < n; i += kThreads) {
    if (x[i] > mine) {
      mine = x[i];
      mine_at = i;
    }
  }
  __syncthreads();
  sh.best[threadIdx.x] = mine;
  sh.at[threadIdx.x] = mine_at;
  __syncthreads();
  for (int width = kThreads / 2; width > 0; width /= 2) {
    if (static_cast<int>(threadIdx.x) < width) {
      const float other = sh.best[threadIdx.x + width];
      const int32_t other_at = sh.at[threadIdx.x + width];
      const float own = sh.best[threadIdx.x];
      if (other > own || (other == own && other_at < sh.at[threadIdx.x])) {
        sh.best[threadIdx.x] = other;
        sh.at[threadIdx.x] = other_at;
      }
    }
    __syncthreads();
  }
  best = sh.best[0];
  at = sh.at[0] == n ? 0 : sh.at[0];
  __syncthreads();
}

__device__ float log_sum_exp(const float* x, int32_t n, Shared& sh) {
  float peak = 0.0F;
  int32_t at = 0;
  block_argmax(x, n, sh, peak, at);
  double sum = 0.0;
  for (int32_t i = threadIdx.x; i < n; i += kThreads) sum += static_cast<double>(expf(x[i] - peak));
  return peak + static_cast<float>(log(block_total(sum, sh)));
}

// Monotone map of floats to unsigned integers.
__device__ uint32_t order_key(float x) {
  const uint32_t bits = __float_as_uint(x);
  return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}

// The smallest key T such that `weight` of the elements with key > T is below `goal`: everything
// above T is kept whole, elements equal to T in part. Bisection over the keys' 32 bits.
template <typename Weight>
__device__ uint32_t threshold_key(const float* x, int32_t n, double goal, Shared& sh,
                                  Weight weight) {
  uint32_t low = 0;
  uint32_t high = 0xFFFFFFFFU;
  while (low < high) {
    const uint32_t middle = low + (high - low) / 2;
    double above = 0.0;
    for (int32_t i = threadIdx.x; i < n; i += kThreads) {
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

// Of the elements equal to the threshold, the ids that come first stay while `kept` of them are
// allowed.
__device__ void drop_below(const float* x, float* p, int32_t n, uint32_t key, double kept,
                           Shared& sh) {
  __syncthreads();
  for (int32_t i = threadIdx.x; i < n; i += kThreads) {
    if (order_key(x[i]) < key) p[i] = 0.0F;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int32_t i = 0; i < n; ++i) {
      if (order_key(x[i]) != key) continue;
      if (kept > 0.0) {
        kept -= 1.0;
      } else {
        p[i] = 0.0F;
      }
    }
  }
  __syncthreads();
  (void)sh;
}

__device__ void keep_top_k(int32_t k, const float* logits, float* p, int32_t n, Shared& sh) {
  const uint32_t key = threshold_key(logits, n, k, sh, [](int32_t) { return 1.0; });
  double above = 0.0;
  for (int32_t i = threadIdx.x; i < n; i += kThreads)
    above += order_key(logits[i]) > key ? 1.0 : 0.0;
  drop_below(logits, p, n, key, k - block_total(above, sh), sh);
}

__device__ void keep_top_p(float top_p, float* p, float* copy, int32_t n, Shared& sh) {
  double total = 0.0;
  for (int32_t i = threadIdx.x; i < n; i += kThreads) {
    total += static_cast<double>(p[i]);
    copy[i] = p[i];
  }
  const double goal = static_cast<double>(top_p) * block_total(total, sh);
  const uint32_t key =
      threshold_key(copy, n, goal, sh, [&](int32_t i) { return static_cast<double>(copy[i]); });
  double above = 0.0;
  for (int32_t i = threadIdx.x; i < n; i += kThreads)
    above += order_key(copy[i]) > key ? static_cast<double>(copy[i]) : 0.0;
  const double sum = block_total(above, sh);
  const uint32_t bits = (key & 0x80000000U) != 0 ? key & 0x7FFFFFFFU : ~key;
  const double each = static_cast<double>(__uint_as_float(bits));
  const double missing = goal - sum;
  drop_below(copy, p, n, key, each > 0.0 ? fmax(ceil(missing / each), sum == 0.0 ? 1.0 : 0.0) : 0.0,
             sh);
}

__device__ double uniform_draw(uint32_t seed_low, uint32_t seed_high, uint32_t index) {
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

// The token at which the running sum of p passes u of its total.
__device__ int32_t draw(const float* p, int32_t n, double u, Shared& sh) {
  const int32_t chunk = (n + kThreads - 1) / kThreads;
  const int32_t begin = min(n, static_cast<int32_t>(threadIdx.x) * chunk);
  const int32_t end = min(n, begin + chunk);
  double mine = 0.0;
  for (int32_t i = begin; i < end; ++i) mine += static_cast<double>(p[i]);
  __syncthreads();
  sh.sums[threadIdx.x] = mine;
  __syncthreads();
  if (threadIdx.x == 0) {
    double total = 0.0;
    for (int i = 0; i < kThreads; ++i) total += sh.sums[i];
    const double target = u * total;
    double sum = 0.0;
    int part = 0;
    while (part + 1 < kThreads && sum + sh.sums[part] <= target) sum += sh.sums[part++];
    int32_t last = 0;
    for (int32_t i = min(n, part * chunk); i < n; ++i) {
      if (p[i] == 0.0F) continue;
      sum += static_cast<double>(p[i]);
      last = i;
      if (sum > target) break;
    }
    sh.token = last;
  }
  __syncthreads();
  return sh.token;
}

__device__ void apply_penalties(const SlotArrays& s, int32_t slot, float* logits, int32_t* counts) {
  const SlotSamplingData& c = s.sampling[slot];
  const int32_t* history = s.history + slot * s.history_stride;
  const int32_t length = s.length[slot];
  for (int32_t i = threadIdx.x; i < s.vocab_padded; i += kThreads) counts[i] = 0;
  __syncthreads();
  for (int32_t i = threadIdx.x; i < length; i += kThreads) {
    if (history[i] < 0 || history[i] >= s.vocab_padded) continue;
    atomicOr(&counts[history[i]], kSeen);
    if (i >= c.prompt_tokens) atomicAdd(&counts[history[i]], 1);
  }
  __syncthreads();
  for (int32_t i = threadIdx.x; i < s.vocab_padded; i += kThreads) {
    if (counts[i] == 0) continue;
    const int32_t answered = counts[i] & ~kSeen;
    float x = logits[i];
    x = x > 0.0F ? x / c.repetition_penalty : x * c.repetition_penalty;
    x -= c.frequency_penalty * static_cast<float>(answered);
    if (answered > 0) x -= c.presence_penalty;
    logits[i] = x;
  }
  __syncthreads();
}

__device__ void apply_bias_and_masks(const SlotArrays& s, int32_t slot, const int32_t* eos,
                                     int32_t eos_count, float* logits, int32_t* counts) {
  const SlotSamplingData& c = s.sampling[slot];
  if (threadIdx.x == 0) {  // ids may repeat
    for (int32_t i = 0; i < c.bias_count; ++i) {
      const int32_t id = s.bias_ids[int64_t{slot} * kBiasMax + i];
      if (id >= 0 && id < s.vocab_padded) logits[id] += s.bias_values[int64_t{slot} * kBiasMax + i];
    }
  }
  __syncthreads();
  if (c.uses_penalties != 0) apply_penalties(s, slot, logits, counts);
  for (int32_t i = s.vocab + static_cast<int32_t>(threadIdx.x); i < s.vocab_padded; i += kThreads)
    logits[i] = -INFINITY;
  if (s.length[slot] < c.min_total_tokens && threadIdx.x == 0) {
    for (int32_t i = 0; c.ignore_eos == 0 && i < eos_count; ++i) logits[eos[i]] = -INFINITY;
    for (int32_t i = 0; i < c.stop_id_count; ++i) {
      if (c.stop_ids[i] >= 0 && c.stop_ids[i] < s.vocab_padded) logits[c.stop_ids[i]] = -INFINITY;
    }
  }
  __syncthreads();
}

// logits: this position's work copy. probabilities: scratch.
__device__ int32_t choose(const SlotArrays& s, int32_t slot, float* logits, float* p,
                          int32_t* counts, Shared& sh) {
  const SlotSamplingData& c = s.sampling[slot];
  float peak = 0.0F;
  int32_t best = 0;
  block_argmax(logits, s.vocab, sh, peak, best);
  if (c.temperature <= 0.0F || !isfinite(peak)) return best;
  const float factor = 1.0F / fmaxf(c.temperature, 1e-5F);
  for (int32_t i = threadIdx.x; i < s.vocab; i += kThreads)
    p[i] = expf((logits[i] - peak) * factor);
  __syncthreads();
  if (c.top_k > 0 && c.top_k < s.vocab) keep_top_k(c.top_k, logits, p, s.vocab, sh);
  if (c.top_p < 1.0F) keep_top_p(c.top_p, p, reinterpret_cast<float*>(counts), s.vocab, sh);
  if (c.min_p > 0.0F) {
    for (int32_t i = threadIdx.x; i < s.vocab; i += kThreads) p[i] = p[i] >= c.min_p ? p[i] : 0.0F;
    __syncthreads();
  }
  return draw(p, s.vocab,
              uniform_draw(c.seed_low, c.seed_high, static_cast<uint32_t>(s.length[slot])), sh);
}

// Raw logprobs of sample row `at`: of `token`, and the most likely ones. work: scratch of vocab
// floats.
__device__ void store_logprobs(const SlotArrays& s, int32_t slot, const float* raw, int32_t token,
                               int32_t at, float norm, float* work, const OutputArrays& out,
                               Shared& sh) {
  if (threadIdx.x == 0) out.logprob[at] = raw[token] - norm;
  const int32_t count = max(s.sampling[slot].logprobs, 0);
  if (count == 0) return;
  for (int32_t i = threadIdx.x; i < s.vocab; i += kThreads) work[i] = raw[i];
  for (int32_t j = 0; j < count; ++j) {
    float best = 0.0F;
    int32_t best_at = 0;
    block_argmax(work, s.vocab, sh, best, best_at);
    if (threadIdx.x == 0) {
      out.top_ids[at * out.top_stride + j] = best_at;
      out.top_logprobs[at * out.top_stride + j] = best - norm;
      work[best_at] = -INFINITY;
    }
    __syncthreads();
  }
}

struct RowScratch {
  float* work;
  float* p;
  int32_t* counts;
};

__device__ int32_t sample_next(const SlotArrays& s, int32_t slot, const float* raw, int32_t at,
                               const int32_t* eos, int32_t eos_count, const RowScratch& scratch,
                               const OutputArrays& out, Shared& sh) {
  for (int32_t i = threadIdx.x; i < s.vocab_padded; i += kThreads) scratch.work[i] = raw[i];
  __syncthreads();
  apply_bias_and_masks(s, slot, eos, eos_count, scratch.work, scratch.counts);
  const int32_t token = choose(s, slot, scratch.work, scratch.p, scratch.counts, sh);
  const SlotSamplingData& c = s.sampling[slot];
  if (c.logprobs >= 0) {
    const float norm = log_sum_exp(raw, s.vocab_padded, sh);
    store_logprobs(s, slot, raw, token, at, norm, scratch.work, out, sh);
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    const int32_t length = s.length[slot] + 1;
    s.history[slot * s.history_stride + length - 1] = token;
    s.length[slot] = length;
    bool ends = false;
    for (int32_t i = 0; c.ignore_eos == 0 && i < eos_count; ++i) ends |= eos[i] == token;
    for (int32_t i = 0; i < c.stop_id_count; ++i) ends |= c.stop_ids[i] == token;
    if (ends) {
      s.finished[slot] = 1;
    } else if (length >= c.total_tokens_max) {
      s.finished[slot] = 2;
    }
  }
  __syncthreads();
  return token;
}

// Position after position while the draft there was right; returns how many tokens were sampled.
__device__ int32_t verify(const SlotArrays& s, int32_t slot, int32_t r, int32_t query,
                          const float* logits, int32_t first, const int32_t* eos, int32_t eos_count,
                          const RowScratch& scratch, const OutputArrays& out, Shared& sh) {
  for (int32_t i = 0;; ++i) {
    const float* raw = logits + int64_t{first + i} * s.vocab_padded;
    const int32_t token = sample_next(s, slot, raw, first + i, eos, eos_count, scratch, out, sh);
    if (threadIdx.x == 0) out.new_tokens[r * out.new_stride + i] = token;
    const bool on =
        i + 1 < query && s.drafts[slot * s.drafts_max + i] == token && s.finished[slot] == 0;
    __syncthreads();
    if (!on) return i + 1;
  }
}

__global__ void sample_kernel(SlotArrays s, BatchArrays b, const float* logits, const int32_t* eos,
                              int32_t eos_count, SampleScratchArrays scratch_all,
                              OutputArrays out) {
  __shared__ Shared sh;
  const int32_t r = static_cast<int32_t>(blockIdx.x);
  const int32_t slot = b.row_slot[r];
  const int32_t kind = b.row_kind[r];
  const int32_t query = b.row_query[r];
  const int32_t context = b.row_context[r];
  int32_t first = 0;  // sample rows stand in order of rows
  while (first < b.sample_rows && b.sample_row[first] < r) ++first;
  const bool wanted = first < b.sample_rows && b.sample_row[first] == r;
  const int64_t at = int64_t{r} * s.vocab_padded;
  const RowScratch scratch{scratch_all.work + at, scratch_all.probabilities + at,
                           scratch_all.counts + at};
  int32_t accepted = query;
  int32_t fresh = 0;
  if (query > 0 && kind != 2) {
    fresh = accepted = verify(s, slot, r, query, logits, first, eos, eos_count, scratch, out, sh);
  } else if (query > 0 && wanted) {
    const bool all = s.sampling[slot].prompt_logprobs != 0;
    const int32_t length = s.length[slot];
    for (int32_t i = 0; all && i < query && context + i + 1 < length; ++i) {
      const float* raw = logits + int64_t{first + i} * s.vocab_padded;
      const float norm = log_sum_exp(raw, s.vocab_padded, sh);
      const int32_t token = s.history[slot * s.history_stride + context + i + 1];
      store_logprobs(s, slot, raw, token, first + i, norm, scratch.work, out, sh);
      __syncthreads();
    }
    if (context + query == length) {
      fresh = verify(s, slot, r, 1, logits, first + (all ? query - 1 : 0), eos, eos_count, scratch,
                     out, sh);
    }
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  if (query > 0) {  // padding rows share slot 0
    s.computed[slot] += accepted;
    s.draft_count[slot] = 0;
  }
  out.accepted[r] = accepted;
  out.new_count[r] = fresh;
  out.drafted[r] = kind == 1 ? max(query - 1, 0) : 0;
  out.draft_count[r] = 0;
  out.finish[r] = fresh > 0 ? s.finished[slot] : 0;
}

__global__ void propose_kernel(SlotArrays s, BatchArrays b, const float* logits, int32_t index,
                               OutputArrays out) {
  __shared__ Shared sh;
  const int32_t r = static_cast<int32_t>(blockIdx.x);
  const int32_t slot = b.row_slot[r];
  if (s.finished[slot] != 0 || s.length[slot] != s.computed[slot] + 1) return;
  float best = 0.0F;
  int32_t draft = 0;
  block_argmax(logits + int64_t{r} * s.vocab_padded, s.vocab, sh, best, draft);
  if (threadIdx.x != 0) return;
  s.drafts[slot * s.drafts_max + index] = draft;
  s.draft_count[slot] = index + 1;
  out.drafts[r * out.draft_stride + index] = draft;
  out.draft_count[r] = index + 1;
}

}  // namespace

void sample(cudaStream_t stream, const SlotArrays& slots, const BatchArrays& batch,
            const float* logits, const int32_t* eos, int32_t eos_count,
            const SampleScratchArrays& scratch, const OutputArrays& out) {
  if (batch.rows == 0) return;
  sample_kernel<<<static_cast<unsigned>(batch.rows), kThreads, 0, stream>>>(
      slots, batch, logits, eos, eos_count, scratch, out);
}

void propose(cudaStream_t stream, const SlotArrays& slots, const BatchArrays& batch,
             const float* logits, int32_t index, const OutputArrays& out) {
  if (batch.rows == 0) return;
  propose_kernel<<<static_cast<unsigned>(batch.rows), kThreads, 0, stream>>>(slots, batch, logits,
                                                                             index, out);
}

}  // namespace fathom::kernels
