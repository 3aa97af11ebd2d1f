// The simulated model, and its answers computed with no cache at all.
#include "support/sim_model.h"

#include <algorithm>

#include "support/sim_random.h"

namespace fathom {

uint64_t SimModel::cache_value(uint64_t before, TokenId token) {
  return mix_bits(before * 0x9E3779B97F4A7C15ULL + static_cast<uint64_t>(token) + 1);
}

TokenId SimModel::next_token(uint64_t value, std::span<const uint64_t> sums,
                             const SamplingParams& sampling, int32_t generated) const {
  uint64_t bits = mix_bits(value ^ mix_bits(sampling.seed));
  for (uint64_t sum : sums) bits = mix_bits(bits + sum);
  const bool may_end = !sampling.ignore_eos && generated >= sampling.min_tokens;
  if (eos_period > 0 && may_end && bits % static_cast<uint64_t>(eos_period) == 0) return eos;
  return first_token +
         static_cast<TokenId>((bits >> 24) % static_cast<uint64_t>(vocab - first_token));
}

FinishReason SimModel::finish(TokenId token, const SamplingParams& sampling, int32_t generated,
                              int32_t length, int32_t length_max) const {
  const auto& stops = sampling.stop_token_ids;
  const bool stop = std::ranges::find(stops, token) != stops.end();
  if (generated > sampling.min_tokens && (stop || (token == eos && !sampling.ignore_eos))) {
    return FinishReason::kStop;
  }
  return length >= length_max ? FinishReason::kLength : FinishReason::kNone;
}

SimAnswer reference_answer(const SimModel& model, std::span<const TokenId> prompt,
                           const SamplingParams& sampling, int32_t tokens_max) {
  SimAnswer answer;
  const auto prompt_tokens = static_cast<int32_t>(prompt.size());
  const int32_t length_max = std::min(tokens_max, prompt_tokens + sampling.max_tokens);
  std::vector<uint64_t> running_sums(1, 0);  // [i]: of the values before position i
  std::vector<uint64_t> sums(model.windows.size());
  uint64_t value = 0;
  int32_t p = 0;
  const auto push = [&](TokenId token) {
    value = SimModel::cache_value(value, token);
    running_sums.push_back(running_sums.back() + value);
    ++p;
  };
  for (TokenId token : prompt) push(token);
  while (answer.finish == FinishReason::kNone) {
    for (size_t g = 0; g < sums.size(); ++g) {
      const int32_t first = model.windows[g] ? std::max(0, p - 1 - *model.windows[g]) : 0;
      sums[g] = running_sums[p] - running_sums[first];
    }
    const auto generated = static_cast<int32_t>(answer.tokens.size());
    const TokenId token = model.next_token(value, sums, sampling, generated);
    answer.tokens.push_back(token);
    answer.finish =
        model.finish(token, sampling, generated + 1, prompt_tokens + generated + 1, length_max);
    push(token);
  }
  return answer;
}

}  // namespace fathom
