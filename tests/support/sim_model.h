// SimModel: the arithmetic of a model that does not exist. What it caches for a position depends on
// every token up to it; the next token depends on the cached values that attention would read. So
// an answer is right only if the right values lay in the right blocks. Values; any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "fathom/plan.h"

namespace fathom {

struct SimModel {
  int32_t vocab = 1000;
  TokenId first_token = 2;  // answers use ids from here on, and eos
  TokenId eos = 1;
  int32_t eos_period = 0;  // one token in so many ends an answer; 0: none does
  // Per cache group: a window reads the positions [p - window, p], a growing group all up to p.
  // Empty: no cache is read, and the answer depends on the tokens alone.
  std::vector<std::optional<int32_t>> windows;

  // The cached value of a position: from that of the position before it (0 before the first).
  static uint64_t cache_value(uint64_t before, TokenId token);
  // The token after a position. `value`: cached there; `sums`: of the cached values that each group
  // reads; `generated`: tokens of the answer before it.
  TokenId next_token(uint64_t value, std::span<const uint64_t> sums, const SamplingParams& sampling,
                     int32_t generated) const;
  // Whether an answer that has `generated` tokens ends with `token`.
  FinishReason finish(TokenId token, const SamplingParams& sampling, int32_t generated,
                      int32_t length, int32_t length_max) const;
};

// What a request must get, whatever runs beside it.
struct SimAnswer {
  std::vector<TokenId> tokens;
  FinishReason finish = FinishReason::kNone;
};

SimAnswer reference_answer(const SimModel& model, std::span<const TokenId> prompt,
                           const SamplingParams& sampling, int32_t tokens_max);

}  // namespace fathom
