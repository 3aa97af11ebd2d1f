// Sampling: one block a row of the batch. The order of application and the tie-breaks are the
// oracle's (src/ops/cpu/sampler.cpp); a draw depends on its row alone (docs/kernels/sampler.md).
#include "async_copy.cuh"
#include "early_launch.cuh"
#include "sample_edit.cuh"
#include "steps.h"

namespace fathom::kernels {
namespace {

constexpr int kMeasureThreads = 128;
static_assert(kSampleMeasuredWords == 3 * kChunksMax);
static_assert(kSamplePeaks == kChunksMax);

// Of one sample row in what measure_kernel writes.
__device__ ChunkArrays measured_row(float* measured, int32_t row) {
  float* const peak = measured + int64_t{row} * (kSampleMeasuredWords);
  return {peak, peak + kChunksMax, peak + 2 * kChunksMax};
}

__device__ ChunkSums sums_of(const SlotSamplingData& c) {
  return {c.temperature > 0.0F, c.logprobs >= 0, 1.0F / fmaxf(c.temperature, 1e-5F)};
}

// The product's peaks are there, and all that `sums` asks for.
__device__ bool peaks_do(const float* peaks, const ChunkSums& sums) {
  return peaks != nullptr && !sums.weight && !sums.mass;
}

// Log of the sum of exp over all columns, those of padding included: sh.mass covers the others.
__device__ __noinline__ float log_sum_exp(const float* logits, int32_t vocab, int32_t padded,
                                          SampleRowShared& sh) {
  assume_shared(&sh);
  const int32_t chunks = chunks_of(vocab);
  float peak = value_of(top_chunk(chunks, sh.sample));
  uint64_t top = 0;
  for (int32_t i = vocab + static_cast<int32_t>(threadIdx.x); i < padded; i += kSampleThreads)
    top = max(top, ranked_key(logits[i], 0));
  top = block_top(top, sh.sample);
  if (top != 0) peak = fmaxf(peak, value_of(top));
  double sum = total_of(sh.sample.mass, chunks, peak, 1.0F, sh.sample);
  double tail = 0.0;
  for (int32_t i = vocab + static_cast<int32_t>(threadIdx.x); i < padded; i += kSampleThreads)
    tail += static_cast<double>(expf(logits[i] - peak));
  sum += block_total(tail, sh.sample);
  return peak + static_cast<float>(log(sum));
}

// The largest ranked key of the logits that is below `bound`.
__device__ uint64_t next_key(const float* logits, int32_t vocab, uint64_t bound,
                             SampleRowShared& sh) {
  uint64_t best = 0;
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i < vocab; i += kSampleThreads) {
    const uint64_t key = ranked_key(logits[i], i);
    if (key < bound) best = max(best, key);
  }
  return block_top(best, sh.sample);
}

// The most likely raw tokens of sample row `row`, with their logprobs.
__device__ __noinline__ void store_top(const float* logits, int32_t vocab, int32_t count,
                                       float norm, int32_t row, const OutputArrays& out,
                                       SampleRowShared& sh) {
  assume_shared(&sh);
  if (count == 0) return;
  const int32_t chunks = chunks_of(vocab);
  const float least = peak_of_rank(count, chunks, sh.sample);
  const int32_t found = gather(logits, vocab, least, sh.sample);
  const auto store = [&](int32_t j, uint64_t key) {
    out.top_ids[row * out.top_stride + j] = id_of(key);
    out.top_logprobs[row * out.top_stride + j] = value_of(key) - norm;
  };
  if (found <= kCandidatesMax) {
    sort_down(sh.sample.keys, found);
    const int32_t both = min(count, found);
    for (int32_t j = static_cast<int32_t>(threadIdx.x); j < both; j += kSampleThreads)
      store(j, sh.sample.keys[j]);
  } else {  // thousands of equal logits
    uint64_t key = ~uint64_t{0};
    for (int32_t j = 0; j < count; ++j) {
      key = next_key(logits, vocab, key, sh);
      if (threadIdx.x == 0) store(j, key);
    }
  }
  __syncthreads();
}

// Appends `token` and says whether the sequence has ended.
__device__ void append(const SlotArrays& s, int32_t slot, int32_t token, const int32_t* eos,
                       int32_t eos_count) {
  const SlotSamplingData& c = s.sampling[slot];
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

// What is there of sample row `row`, in measure's place; the chunk past the last whole one is
// measured here.
__device__ __noinline__ void take_measured(const SamplePosition& at, int32_t row, int32_t vocab,
                                           const ChunkSums& sums, SampleShared& sh) {
  assume_shared(&sh);
  const int32_t whole = vocab / kChunk;
  __syncthreads();
  if (peaks_do(at.peaks, sums)) {
    const float* from = at.peaks + int64_t{row} * kSamplePeaks;
    for (auto c = static_cast<int32_t>(threadIdx.x); c < whole; c += kSampleThreads)
      sh.peak[c] = from[c];
  } else {
    const ChunkArrays from = measured_row(const_cast<float*>(at.measured), row);
    for (auto c = static_cast<int32_t>(threadIdx.x); c < whole; c += kSampleThreads) {
      sh.peak[c] = from.peak[c];
      if (sums.weight) sh.weight[c] = from.weight[c];
      if (sums.mass) sh.mass[c] = from.mass[c];
    }
  }
  if (threadIdx.x < 32 && whole < chunks_of(vocab))
    note_chunk(load_chunk(at.logits, vocab, whole), whole, sums, sh);
  __syncthreads();
}

// Samples the token after the slot's last; sample row `row` has its logits.
__device__ __noinline__ int32_t sample_next(const SlotArrays& s, int32_t slot, int32_t row,
                                            const int32_t* eos, int32_t eos_count,
                                            const SamplePosition& at, const OutputArrays& out,
                                            SampleRowShared& sh) {
  assume_shared(&sh);
  const SlotSamplingData& c = s.sampling[slot];
  const int32_t length = s.length[slot];
  const bool edits = edits_logits(c, length);
  const bool reports = c.logprobs >= 0;
  const ChunkSums sums = sums_of(c);
  if (edits && !reports) edit_logits(s, slot, eos, eos_count, at, false, sums, sh);
  const bool raw_is_measured = at.measured != nullptr || peaks_do(at.peaks, sums);
  if (raw_is_measured && (!edits || reports)) {
    take_measured(at, row, s.vocab, sums, sh.sample);
  } else {
    measure(at.logits, s.vocab, sums, sh.sample);
  }
  float norm = 0.0F;
  if (reports) {
    norm = log_sum_exp(at.logits, s.vocab, s.vocab_padded, sh);
    store_top(at.logits, s.vocab, c.logprobs, norm, row, out, sh);
    if (edits) {
      edit_logits(s, slot, eos, eos_count, at, true, sums, sh);
      measure_edited(at.logits, s.vocab, sums, sh);
    }
  }
  const ChooseArrays arrays{at.logits, s.vocab, at.probabilities,
                            reinterpret_cast<float*>(at.counts)};
  const int32_t token = choose(c, length, arrays, sh.sample);
  if (reports) {
    float raw = at.logits[token];
    if (edits) {
      raw = fits_table(s, c, length) ? raw_logit_of_table(at, token, sh)
                                     : raw_logit(s, slot, eos, eos_count, at, token);
    }
    if (threadIdx.x == 0) out.logprob[row] = raw - norm;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    append(s, slot, token, eos, eos_count);
  }
  __syncthreads();
  return token;
}

struct RowScratch {
  float* raw;
  float* probabilities;
  int32_t* counts;
  const float* measured;
  const float* peaks;
};

// Position after position while the draft there was right; returns how many tokens were sampled.
__device__ int32_t verify(const SlotArrays& s, int32_t slot, int32_t r, int32_t query,
                          float* logits, int32_t first, const int32_t* eos, int32_t eos_count,
                          const RowScratch& scratch, const OutputArrays& out, SampleRowShared& sh) {
  for (int32_t i = 0;; ++i) {
    const SamplePosition at{logits + int64_t{first + i} * s.vocab_padded, scratch.raw,
                            scratch.probabilities, scratch.counts, scratch.measured,
                            scratch.peaks};
    const int32_t token = sample_next(s, slot, first + i, eos, eos_count, at, out, sh);
    if (threadIdx.x == 0) out.new_tokens[r * out.new_stride + i] = token;
    const bool on =
        i + 1 < query && s.drafts[slot * s.drafts_max + i] == token && s.finished[slot] == 0;
    __syncthreads();
    if (!on) return i + 1;
  }
}

// The prompt's own logprobs: of the token after each of the row's tokens, as far as it is known.
__device__ __noinline__ void store_prompt(const SlotArrays& s, int32_t slot, int32_t context,
                                          int32_t query, const float* logits, int32_t first,
                                          const OutputArrays& out, SampleRowShared& sh) {
  assume_shared(&sh);
  const int32_t length = s.length[slot];
  for (int32_t i = 0; i < query && context + i + 1 < length; ++i) {
    const float* raw = logits + int64_t{first + i} * s.vocab_padded;
    measure(raw, s.vocab, {false, true, 1.0F}, sh.sample);
    const float norm = log_sum_exp(raw, s.vocab, s.vocab_padded, sh);
    store_top(raw, s.vocab, max(s.sampling[slot].logprobs, 0), norm, first + i, out, sh);
    const int32_t token = s.history[slot * s.history_stride + context + i + 1];
    if (threadIdx.x == 0) out.logprob[first + i] = raw[token] - norm;
  }
}

// The first sample row of row `r`, or -1. Sample rows stand in the order of rows: with one for each
// it is number r.
__device__ int32_t first_sample_row(const BatchArrays& b, int32_t r, SampleRowShared& sh) {
  if (r < b.sample_rows && b.sample_row[r] == r && (r == 0 || b.sample_row[r - 1] != r)) return r;
  if (threadIdx.x == 0) sh.first = -1;
  __syncthreads();
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i < b.sample_rows; i += kSampleThreads)
    if (b.sample_row[i] == r && (i == 0 || b.sample_row[i - 1] != r)) sh.first = i;
  __syncthreads();
  return sh.first;
}

// All of row `r`; every thread of the block calls it.
__device__ void sample_row(const SlotArrays& s, const BatchArrays& b, int32_t r, float* logits,
                           const int32_t* eos, int32_t eos_count, const RowScratch& scratch,
                           const OutputArrays& out, SampleRowShared& sh) {
  const int32_t slot = b.row_slot[r];
  const int32_t kind = b.row_kind[r];
  const int32_t query = b.row_query[r];
  const int32_t context = b.row_context[r];
  const int32_t first = query > 0 ? first_sample_row(b, r, sh) : -1;
  int32_t accepted = query;
  int32_t fresh = 0;
  if (query > 0 && kind != 2) {
    fresh = accepted = verify(s, slot, r, query, logits, first, eos, eos_count, scratch, out, sh);
  } else if (query > 0 && first >= 0) {
    const bool all = s.sampling[slot].prompt_logprobs != 0;
    const bool ends_prompt = context + query == s.length[slot];
    if (all) store_prompt(s, slot, context, query, logits, first, out, sh);
    if (ends_prompt) {
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

// All whole chunks of every sample row, a warp four: where rows are few, one block for each would
// read them slowly. As measure would find them before any edit.
__global__ void __launch_bounds__(kMeasureThreads)
    measure_kernel(const __grid_constant__ SlotArrays s, const __grid_constant__ BatchArrays b,
                   const float* logits, float* measured) {
  let_next_kernel_start();
  wait_for_earlier_kernels();
  const auto row = static_cast<int32_t>(blockIdx.y);
  const int32_t r = b.sample_row[row];
  const int32_t whole = s.vocab / kChunk;
  const int32_t first =
      static_cast<int32_t>(blockIdx.x * kMeasureThreads + threadIdx.x) / 32 * kChunksAtOnce;
  if (first >= whole || r < 0 || r >= b.rows) return;
  ChunkGroup group;
  load_group<1>(logits + int64_t{row} * s.vocab_padded, first, whole - 1, group);
  const ChunkSums sums = sums_of(s.sampling[b.row_slot[r]]);
  note_group<1>(group, first, whole, sums, measured_row(measured, row));
}

// Rows blockIdx.x, blockIdx.x + gridDim.x, ...: scratch is a block's, not a row's.
__global__ void __launch_bounds__(kSampleThreads, 1)
    sample_kernel(const __grid_constant__ SlotArrays s, const __grid_constant__ BatchArrays b,
                  float* logits, const int32_t* eos, int32_t eos_count,
                  const __grid_constant__ SampleScratchArrays scratch_all,
                  const __grid_constant__ OutputArrays out) {
  extern __shared__ __align__(16) unsigned char shared_bytes[];
  SampleRowShared& sh = *reinterpret_cast<SampleRowShared*>(shared_bytes);
  let_next_kernel_start();
  wait_for_earlier_kernels();
  if (threadIdx.x == 0) sh.row = static_cast<int32_t>(blockIdx.x);
  __syncthreads();
#pragma unroll 1
  while (sh.row < b.rows) {
    const int64_t at = int64_t{blockIdx.x} * s.vocab_padded;
    const RowScratch scratch{scratch_all.raw + at, scratch_all.probabilities + at,
                             scratch_all.counts + at, scratch_all.measured, scratch_all.peaks};
    sample_row(s, b, sh.row, logits, eos, eos_count, scratch, out, sh);
    __syncthreads();
    if (threadIdx.x == 0) sh.row += static_cast<int32_t>(gridDim.x);
    __syncthreads();
  }
}

__global__ void __launch_bounds__(kSampleThreads, 1)
    propose_kernel(SlotArrays s, BatchArrays b, const float* logits, int32_t index,
                   OutputArrays out) {
  extern __shared__ __align__(16) unsigned char shared_bytes[];
  SampleShared& sh = reinterpret_cast<SampleRowShared*>(shared_bytes)->sample;
  let_next_kernel_start();
  wait_for_earlier_kernels();
  const int32_t r = static_cast<int32_t>(blockIdx.x);
  const int32_t slot = b.row_slot[r];
  if (s.finished[slot] != 0 || s.length[slot] != s.computed[slot] + 1) return;
  const float* row = logits + int64_t{r} * s.vocab_padded;
  measure(row, s.vocab, {}, sh);
  const int32_t draft = first_at_peak(row, s.vocab, top_chunk(chunks_of(s.vocab), sh), sh);
  if (threadIdx.x != 0) return;
  s.drafts[slot * s.drafts_max + index] = draft;
  s.draft_count[slot] = index + 1;
  out.drafts[r * out.draft_stride + index] = draft;
  out.draft_count[r] = index + 1;
}

}  // namespace

cudaError_t load_sampler() {
  for (const void* kernel : {reinterpret_cast<const void*>(sample_kernel),
                             reinterpret_cast<const void*>(propose_kernel)}) {
    const cudaError_t error = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(SampleRowShared));
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

void sample(cudaStream_t stream, const SlotArrays& slots, const BatchArrays& batch, float* logits,
            const int32_t* eos, int32_t eos_count, const SampleScratchArrays& scratch,
            const OutputArrays& out) {
  if (batch.rows == 0) return;
  if (scratch.measured != nullptr) {
    constexpr int32_t kLogits = kMeasureThreads / 32 * kChunksAtOnce * kChunk;
    const dim3 blocks(static_cast<unsigned>((slots.vocab + kLogits - 1) / kLogits),
                      static_cast<unsigned>(batch.sample_rows));
    launch_early(stream, measure_kernel, blocks, dim3(kMeasureThreads), slots, batch, logits,
                 scratch.measured);
  }
  launch_early_with_shared(stream, sample_kernel, dim3(static_cast<unsigned>(scratch.blocks)),
                           dim3(kSampleThreads), sizeof(SampleRowShared), slots, batch, logits, eos,
                           eos_count, scratch, out);
}

void propose(cudaStream_t stream, const SlotArrays& slots, const BatchArrays& batch,
             const float* logits, int32_t index, const OutputArrays& out) {
  if (batch.rows == 0) return;
  launch_early_with_shared(stream, propose_kernel, dim3(static_cast<unsigned>(batch.rows)),
                           dim3(kSampleThreads), sizeof(SampleRowShared), slots, batch, logits,
                           index, out);
}

}  // namespace fathom::kernels
