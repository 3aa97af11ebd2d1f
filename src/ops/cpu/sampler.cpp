// The sampler's arithmetic.
#include "ops/cpu/sampler.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "ops/cpu/philox.h"
#include "ops/cpu/simd.h"

namespace fathom {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();
constexpr float kTemperatureMin = 1e-5F;  // keeps 1 / temperature finite
constexpr int32_t kSeen = 1 << 30;        // in counts: the token occurs in prompt or answer

void add_bias(const SampleContext& c, float* logits) {
  for (int32_t i = 0; i < c.sampling.bias_count; ++i) {
    if (c.bias_ids[i] >= 0 && c.bias_ids[i] < c.vocab_padded) {
      logits[c.bias_ids[i]] += c.bias_values[i];
    }
  }
}

// Repetition over prompt and answer; frequency and presence over the answer.
void apply_penalties(const SampleContext& c, float* logits, int32_t* counts) {
  const SlotSampling& s = c.sampling;
  const auto known = [&](int32_t i) { return c.history[i] >= 0 && c.history[i] < c.vocab_padded; };
  for (int32_t i = 0; i < c.length; ++i) {
    if (!known(i)) continue;
    int32_t& count = counts[c.history[i]];
    count |= kSeen;
    if (i >= s.prompt_tokens) ++count;
  }
  for (int32_t i = 0; i < c.length; ++i) {
    if (!known(i) || counts[c.history[i]] == 0) continue;
    float& logit = logits[c.history[i]];
    const int32_t answered = counts[c.history[i]] & ~kSeen;
    logit = logit > 0.0F ? logit / s.repetition_penalty : logit * s.repetition_penalty;
    logit -= s.frequency_penalty * static_cast<float>(answered);
    if (answered > 0) logit -= s.presence_penalty;
    counts[c.history[i]] = 0;
  }
}

void apply_masks(const SampleContext& c, float* logits) {
  const SlotSampling& s = c.sampling;
  std::fill(logits + c.vocab, logits + c.vocab_padded, kNever);
  if (c.length >= s.min_total_tokens) return;
  const auto mask = [&](TokenId id) {
    if (id >= 0 && id < c.vocab_padded) logits[id] = kNever;
  };
  if (s.ignore_eos == 0) std::for_each(c.eos.begin(), c.eos.end(), mask);
  std::for_each(s.stop_ids, s.stop_ids + s.stop_id_count, mask);
}

// Zeroes all but the k most likely; among equals the lowest ids stay.
void keep_top_k(int64_t k, const float* logits, int64_t n, const SampleScratch& scratch) {
  std::copy_n(logits, n, scratch.ordered);
  std::nth_element(scratch.ordered, scratch.ordered + k - 1, scratch.ordered + n,
                   std::greater<float>());
  const float threshold = scratch.ordered[k - 1];
  int64_t equals = k - std::count_if(logits, logits + n, [&](float x) { return x > threshold; });
  for (int64_t i = 0; i < n; ++i) {
    if (logits[i] > threshold) continue;
    if (logits[i] == threshold && equals-- > 0) continue;
    scratch.probabilities[i] = 0.0F;
  }
}

// Zeroes all but the shortest list of most likely tokens whose sum reaches top_p of the whole.
void keep_top_p(float top_p, int64_t n, const SampleScratch& scratch) {
  float* p = scratch.probabilities;
  double total = 0.0;
  for (int64_t i = 0; i < n; ++i) total += p[i];
  // Tokens below this, all together, weigh less than 1 - top_p: none of them is in the list.
  const double least = (1.0 - top_p) * total / static_cast<double>(n);
  int64_t count = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (p[i] > 0.0F && p[i] >= least) scratch.candidates[count++] = static_cast<int32_t>(i);
  }
  std::sort(scratch.candidates, scratch.candidates + count,
            [&](int32_t a, int32_t b) { return p[a] > p[b] || (p[a] == p[b] && a < b); });
  double sum = 0.0;
  int64_t kept = 0;
  while (kept < count && (kept == 0 || sum < top_p * total)) sum += p[scratch.candidates[kept++]];
  for (int64_t i = 0; i < kept; ++i) scratch.ordered[i] = p[scratch.candidates[i]];
  std::fill_n(p, n, 0.0F);
  for (int64_t i = 0; i < kept; ++i) p[scratch.candidates[i]] = scratch.ordered[i];
}

TokenId draw(const float* p, int64_t n, double u) {
  double total = 0.0;
  for (int64_t i = 0; i < n; ++i) total += p[i];
  const double target = u * total;
  double sum = 0.0;
  int64_t last = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (p[i] == 0.0F) continue;
    sum += p[i];
    last = i;
    if (sum > target) break;
  }
  return static_cast<TokenId>(last);
}

}  // namespace

TokenId argmax(const float* values, int64_t n) {
  const float best = simd::max_of(values, n);
  const float* at = std::find(values, values + n, best);
  return at == values + n ? 0 : static_cast<TokenId>(at - values);
}

float log_sum_exp(const float* logits, int64_t n, float* work) {
  const float peak = simd::max_of(logits, n);
  return peak + std::log(simd::exp_sum(logits, work, n, peak, 1.0F));
}

void top_entries(const float* logits, int64_t n, int32_t count, float norm, int32_t* ids,
                 float* logprobs) {
  std::fill_n(ids, count, 0);
  std::fill_n(logprobs, count, kNever);
  for (int64_t i = 0; i < n; ++i) {
    const float value = logits[i] - norm;
    if (count == 0 || !(value > logprobs[count - 1])) continue;
    int32_t at = count - 1;
    for (; at > 0 && value > logprobs[at - 1]; --at) {
      ids[at] = ids[at - 1];
      logprobs[at] = logprobs[at - 1];
    }
    ids[at] = static_cast<int32_t>(i);
    logprobs[at] = value;
  }
}

bool ends_sequence(const SlotSampling& sampling, std::span<const TokenId> eos, TokenId token) {
  if (sampling.ignore_eos == 0 && std::find(eos.begin(), eos.end(), token) != eos.end()) {
    return true;
  }
  const int32_t* end = sampling.stop_ids + sampling.stop_id_count;
  return std::find(sampling.stop_ids, end, token) != end;
}

TokenId sample_token(const SampleContext& c, float* logits, const SampleScratch& scratch) {
  const SlotSampling& s = c.sampling;
  add_bias(c, logits);
  if (s.uses_penalties != 0) apply_penalties(c, logits, scratch.counts);
  apply_masks(c, logits);
  const float peak = simd::max_of(logits, c.vocab);
  if (s.temperature <= 0.0F || !std::isfinite(peak)) return argmax(logits, c.vocab);
  float* p = scratch.probabilities;
  const float factor = 1.0F / std::max(s.temperature, kTemperatureMin);
  simd::exp_sum(logits, p, c.vocab, peak, factor);
  if (s.top_k > 0 && s.top_k < c.vocab) keep_top_k(s.top_k, logits, c.vocab, scratch);
  if (s.top_p < 1.0F) keep_top_p(s.top_p, c.vocab, scratch);
  if (s.min_p > 0.0F) {  // the most likely token's p is 1
    for (int32_t i = 0; i < c.vocab; ++i) p[i] = p[i] >= s.min_p ? p[i] : 0.0F;
  }
  const double u = uniform_draw(s.seed_low, s.seed_high, c.length, DrawPurpose::kToken);
  return draw(p, c.vocab, u);
}

}  // namespace fathom
