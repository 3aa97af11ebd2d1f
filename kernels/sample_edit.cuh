// Edits of a position's logits: bias, penalties and masks, before the pass over them or after it,
// and what they change of its findings.
#pragma once

#include "sample_choose.cuh"
#include "steps.h"

namespace fathom::kernels {

inline constexpr int32_t kSeen = 1 << 30;  // in counts: the token occurs in prompt or answer
inline constexpr int kDirtyWords = kChunksMax / 32;

struct SampleRowShared {
  SampleShared sample;
  uint32_t dirty[kDirtyWords];  // chunks to be measured again after edits
  int32_t change[kChunksMax];   // what edits add to the weights of others, of kChangeOne
  int32_t first;                // sample row
  int32_t row;                  // of the batch
  float raw;                    // logit of the chosen token, where it was edited
};

// At most 128 logits of a chunk change, each by 1 at most: sums fit, and have no order.
inline constexpr float kChangeOne = 1 << 23;

// A table of the history's tokens in sh.keys, which stand idle meanwhile: in a word a token's id,
// whether the prompt has it, and how often the answer does.
inline constexpr int32_t kTableSize = 2 * kCandidatesMax;
inline constexpr int32_t kTableTokens = kTableSize / 4 * 3;
inline constexpr int kTableCountBits = 13;
inline constexpr uint32_t kTableSeen = 1U << kTableCountBits;
inline constexpr int kTableIdShift = kTableCountBits + 1;
inline constexpr uint32_t kTableEmpty = ~0U;
static_assert(kSampleVocabMax <= 1 << (32 - kTableIdShift) && kTableTokens < 1 << kTableCountBits);

// One row's arrays for a position.
struct SamplePosition {
  float* logits = nullptr;  // [vocab_padded]; edited in place
  float* raw = nullptr;     // [vocab_padded] raw logits of edited tokens
  float* probabilities = nullptr;
  int32_t* counts = nullptr;
  const float* measured = nullptr;  // of all sample rows, before edits; or null
  const float* peaks = nullptr;     // likewise, peaks alone
};

__device__ inline bool edits_logits(const SlotSamplingData& c, int32_t length) {
  return c.bias_count > 0 || c.uses_penalties != 0 || length < c.min_total_tokens;
}

// Calls f(id) for every token whose logit may change, by all threads; ids may repeat.
template <typename F>
__device__ void each_edited(const SlotArrays& s, int32_t slot, const int32_t* eos,
                            int32_t eos_count, F f) {
  const SlotSamplingData& c = s.sampling[slot];
  const auto call = [&](int32_t id) {
    if (id >= 0 && id < s.vocab_padded) f(id);
  };
  const int32_t length = s.length[slot];
  const auto thread = static_cast<int32_t>(threadIdx.x);
  for (int32_t i = thread; i < c.bias_count; i += kSampleThreads)
    call(s.bias_ids[int64_t{slot} * kBiasMax + i]);
  for (int32_t i = thread; c.uses_penalties != 0 && i < length; i += kSampleThreads)
    call(s.history[slot * s.history_stride + i]);
  if (length >= c.min_total_tokens || thread != 0) return;
  for (int32_t i = 0; i < c.stop_id_count; ++i) call(c.stop_ids[i]);
  for (int32_t i = 0; c.ignore_eos == 0 && i < eos_count; ++i) call(eos[i]);
}

__device__ inline void mark_dirty(int32_t id, SampleRowShared& sh) {
  const int32_t chunk = id / kChunk;
  atomicOr(&sh.dirty[chunk / 32], 1U << (chunk % 32));
}

__device__ inline void clear_changes(SampleRowShared& sh) {
  for (int i = static_cast<int>(threadIdx.x); i < kDirtyWords; i += kSampleThreads) sh.dirty[i] = 0;
  for (int i = static_cast<int>(threadIdx.x); i < kChunksMax; i += kSampleThreads) sh.change[i] = 0;
}

// Readies what edits need: counts at 0, and after a pass the raw logits of the tokens that will
// change, with no changes counted yet.
__device__ inline void before_edits(const SlotArrays& s, int32_t slot, const int32_t* eos,
                                    int32_t eos_count, const SamplePosition& at, bool measured,
                                    SampleRowShared& sh) {
  clear_changes(sh);
  each_edited(s, slot, eos, eos_count, [&](int32_t id) {
    at.counts[id] = 0;
    if (measured) at.raw[id] = at.logits[id];
  });
  __syncthreads();
}

// Whether edits are penalties alone, of a history that fits the table.
__device__ inline bool fits_table(const SlotArrays& s, const SlotSamplingData& c, int32_t length) {
  return c.uses_penalties != 0 && c.bias_count == 0 && length >= c.min_total_tokens &&
         length <= kTableTokens && s.vocab_padded >= 2 * kTableSize;
}

// The same where the table had the edits: it was kept behind the raw logits of its places.
__device__ inline float raw_logit_of_table(const SamplePosition& at, int32_t token,
                                           SampleRowShared& sh) {
  bool edited = false;
  for (int i = static_cast<int>(threadIdx.x); i < kTableSize; i += kSampleThreads) {
    const uint32_t word = __float_as_uint(at.raw[kTableSize + i]);
    if (word == kTableEmpty || word >> kTableIdShift != static_cast<uint32_t>(token)) continue;
    edited = true;
    sh.raw = at.raw[i];
  }
  return __syncthreads_or(edited ? 1 : 0) != 0 ? sh.raw : at.logits[token];
}

// The raw logit of `token` after edits.
__device__ inline float raw_logit(const SlotArrays& s, int32_t slot, const int32_t* eos,
                                  int32_t eos_count, const SamplePosition& at, int32_t token) {
  int edited = 0;
  each_edited(s, slot, eos, eos_count, [&](int32_t id) { edited |= id == token ? 1 : 0; });
  return __syncthreads_or(edited) != 0 ? at.raw[token] : at.logits[token];
}

// What became of a logit after the pass: the weight of its chunk follows, unless the peak moved.
__device__ inline void note_change(float before, float after, int32_t id, const ChunkSums& sums,
                                   SampleRowShared& sh) {
  const int32_t chunk = id / kChunk;
  const float peak = sh.sample.peak[chunk];
  if (before >= peak || after > peak) {
    mark_dirty(id, sh);
  } else if (sums.weight) {
    const auto weight = [&](float x) {
      return __float2int_rn(kChangeOne * exp2_approximate((x - peak) * sums.factor * kLog2E));
    };
    atomicAdd(&sh.change[chunk], weight(after) - weight(before));
  }
}

// Repetition over prompt and answer; frequency and presence over the answer.
__device__ inline float penalized(const SlotSamplingData& c, float x, int32_t answered) {
  x = x > 0.0F ? x / c.repetition_penalty : x * c.repetition_penalty;
  x -= c.frequency_penalty * static_cast<float>(answered);
  return answered > 0 ? x - c.presence_penalty : x;
}

// Puts the history's tokens into the table.
__device__ inline void fill_table(const SlotArrays& s, int32_t slot, int32_t prompt,
                                  uint32_t* table) {
  const int32_t* history = s.history + slot * s.history_stride;
  const int32_t length = s.length[slot];
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i < length; i += kSampleThreads) {
    const int32_t id = history[i];
    if (id < 0 || id >= s.vocab_padded) continue;
    const auto key = static_cast<uint32_t>(id);
    uint32_t place = key * 2654435761U % kTableSize;
    while (true) {
      const uint32_t found = atomicCAS(&table[place], kTableEmpty, key << kTableIdShift);
      if (found == kTableEmpty || found >> kTableIdShift == key) break;
      place = (place + 1) % kTableSize;
    }
    if (i >= prompt) {
      atomicAdd(&table[place], 1U);
    } else {
      atomicOr(&table[place], kTableSeen);
    }
  }
}

// Penalties by way of the table: the logits alone are read and written here and there.
// changed(before, after, id) is called for every token once.
template <typename Changed>
__device__ void apply_table(const SlotArrays& s, int32_t slot, const SamplePosition& at,
                            bool measured, SampleRowShared& sh, const Changed& changed) {
  const SlotSamplingData& c = s.sampling[slot];
  auto* table = reinterpret_cast<uint32_t*>(sh.sample.keys);
  for (int i = static_cast<int>(threadIdx.x); i < kTableSize; i += kSampleThreads)
    table[i] = kTableEmpty;
  __syncthreads();
  fill_table(s, slot, c.prompt_tokens, table);
  __syncthreads();
  constexpr int kAtOnce = kTableSize / kSampleThreads;
  uint32_t word[kAtOnce];
  float before[kAtOnce];
#pragma unroll
  for (int u = 0; u < kAtOnce; ++u) {
    word[u] = table[u * kSampleThreads + threadIdx.x];
    before[u] = word[u] != kTableEmpty ? at.logits[word[u] >> kTableIdShift] : 0.0F;
  }
#pragma unroll
  for (int u = 0; u < kAtOnce; ++u) {
    const auto place = static_cast<int32_t>(u * kSampleThreads + threadIdx.x);
    if (measured) {
      at.raw[kTableSize + place] = __uint_as_float(word[u]);
      at.raw[place] = before[u];
    }
    if (word[u] == kTableEmpty) continue;
    const auto id = static_cast<int32_t>(word[u] >> kTableIdShift);
    const float x = penalized(c, before[u], static_cast<int32_t>(word[u] & (kTableSeen - 1)));
    at.logits[id] = x;
    changed(before[u], x, id);
  }
  __syncthreads();
}

// The same for any history, which is counted in scratch. before_edits came before it.
template <typename Changed>
__device__ void apply_penalties(const SlotArrays& s, int32_t slot, const SamplePosition& at,
                                const Changed& changed) {
  const SlotSamplingData& c = s.sampling[slot];
  const int32_t* history = s.history + slot * s.history_stride;
  const int32_t length = s.length[slot];
  const auto id_at = [&](int32_t i) {
    const int32_t id = i < length ? history[i] : -1;
    return id < s.vocab_padded ? id : -1;
  };
  const auto thread = static_cast<int32_t>(threadIdx.x);
  for (int32_t i = thread; i < length; i += kSampleThreads) {
    const int32_t id = id_at(i);
    if (id < 0) continue;
    if (i >= c.prompt_tokens) {
      atomicAdd(&at.counts[id], 1);
    } else {
      atomicOr(&at.counts[id], kSeen);
    }
  }
  __syncthreads();
  constexpr int kAtOnce = 2;
  for (int32_t first = thread; first < length; first += kAtOnce * kSampleThreads) {
    int32_t id[kAtOnce];
    float before[kAtOnce];
    int32_t count[kAtOnce];
#pragma unroll
    for (int u = 0; u < kAtOnce; ++u) id[u] = id_at(first + u * kSampleThreads);
#pragma unroll
    for (int u = 0; u < kAtOnce; ++u) before[u] = id[u] >= 0 ? at.logits[id[u]] : 0.0F;
#pragma unroll
    for (int u = 0; u < kAtOnce; ++u)  // the first to come edits
      count[u] = id[u] >= 0 ? atomicExch(&at.counts[id[u]], 0) : 0;
#pragma unroll
    for (int u = 0; u < kAtOnce; ++u) {
      if (count[u] == 0) continue;
      const float x = penalized(c, before[u], count[u] & ~kSeen);
      at.logits[id[u]] = x;
      changed(before[u], x, id[u]);
    }
  }
  __syncthreads();
}

// `measured`: the pass is over, and what it found follows the edits.
__device__ __noinline__ inline void edit_logits(const SlotArrays& s, int32_t slot,
                                                const int32_t* eos, int32_t eos_count,
                                                const SamplePosition& at, bool measured,
                                                const ChunkSums& sums, SampleRowShared& sh) {
  assume_shared(&sh);
  const SlotSamplingData& c = s.sampling[slot];
  const auto changed = [&](float before, float after, int32_t id) {
    if (measured && id < s.vocab) note_change(before, after, id, sums, sh);
  };
  if (fits_table(s, c, s.length[slot])) {
    clear_changes(sh);
    return apply_table(s, slot, at, measured, sh, changed);
  }
  before_edits(s, slot, eos, eos_count, at, measured, sh);
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i < c.bias_count; i += kSampleThreads) {
    const int32_t id = s.bias_ids[int64_t{slot} * kBiasMax + i];
    if (id < 0 || id >= s.vocab_padded) continue;
    atomicAdd(&at.logits[id], s.bias_values[int64_t{slot} * kBiasMax + i]);
    if (measured) mark_dirty(id, sh);
  }
  __syncthreads();
  if (c.uses_penalties != 0) apply_penalties(s, slot, at, changed);
  if (s.length[slot] < c.min_total_tokens && threadIdx.x == 0) {
    const auto mask = [&](int32_t id) {
      if (id < 0 || id >= s.vocab_padded) return;
      at.logits[id] = -INFINITY;
      if (measured) mark_dirty(id, sh);
    };
    for (int32_t i = 0; c.ignore_eos == 0 && i < eos_count; ++i) mask(eos[i]);
    for (int32_t i = 0; i < c.stop_id_count; ++i) mask(c.stop_ids[i]);
  }
  __syncthreads();
}

// Peaks and weights of the chunks that were edited.
__device__ inline void measure_edited(const float* logits, int32_t vocab, const ChunkSums& sums,
                                      SampleRowShared& sh) {
  const int32_t chunks = chunks_of(vocab);
  for (int32_t c = static_cast<int32_t>(threadIdx.x); c < chunks; c += kSampleThreads)
    sh.sample.weight[c] += static_cast<float>(sh.change[c]) / kChangeOne;
  __syncthreads();
  list_chunks(chunks, sh.sample,
              [&](int32_t c) { return (sh.dirty[c / 32] >> (c % 32) & 1U) != 0; });
  for (int32_t i = static_cast<int32_t>(threadIdx.x / 32); i < sh.sample.listed_count;
       i += kSampleWarps) {
    const int32_t c = sh.sample.listed[i];
    note_chunk(load_chunk(logits, vocab, c), c, {sums.weight, false, sums.factor}, sh.sample);
  }
  __syncthreads();
}

}  // namespace fathom::kernels
