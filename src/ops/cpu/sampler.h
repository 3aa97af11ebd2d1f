// One row of logits to one token, in the fixed order of DESIGN.md 5: logit_bias, penalties,
// min_tokens and padding mask, temperature, top_k, top_p, min_p, draw. Pure but for its scratch.
#pragma once

#include <cstdint>
#include <span>

#include "fathom/batch.h"

namespace fathom {

// Memory of one sampling thread.
struct SampleScratch {
  float* probabilities = nullptr;  // [vocab_padded]
  float* ordered = nullptr;        // [vocab_padded]
  float* raw = nullptr;            // [vocab_padded] logits as the model gave them
  int32_t* candidates = nullptr;   // [vocab_padded]
  int32_t* counts = nullptr;       // [vocab_padded] zero between calls
};

// What the sampler must know of a sequence at the position that it samples.
struct SampleContext {
  const SlotSampling& sampling;
  const int32_t* history;  // [length] prompt and answer so far
  int32_t length;          // also the index of the token to sample
  const int32_t* bias_ids;
  const float* bias_values;
  std::span<const TokenId> eos;
  int32_t vocab;         // ids from here on are padding
  int32_t vocab_padded;  // columns of the logits
};

// `logits` [vocab_padded] is overwritten.
TokenId sample_token(const SampleContext& context, float* logits, const SampleScratch& scratch);

// Index of the largest of values[0, n), the lowest among equals; 0 if all are NaN.
TokenId argmax(const float* values, int64_t n);

// log of the sum of exp(logits[0, n)); `work` holds n floats.
float log_sum_exp(const float* logits, int64_t n, float* work);

// The `count` largest of logits[0, n), largest first, lowest id first among equals, as ids and as
// logits minus `norm`. Entries past n are (0, -infinity).
void top_entries(const float* logits, int64_t n, int32_t count, float norm, int32_t* ids,
                 float* logprobs);

// Whether `token` ends the sequence: an eos unless ignored, or a stop id.
bool ends_sequence(const SlotSampling& sampling, std::span<const TokenId> eos, TokenId token);

}  // namespace fathom
