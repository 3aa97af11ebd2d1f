// Which form of latent attention a step's prefill rows take: a pure function of what the host knows
// of a step with prompts, tested without a GPU.
#pragma once

#include <cstdint>

namespace fathom {

// The prefill rows of a step, bounds.
struct MlaPrefillProblem {
  int32_t rows = 0;
  int32_t tokens_max = 0;      // of a row
  int64_t step_tokens = 0;     // of all rows of the step: what projections cover
  int64_t context_tokens = 0;  // of all rows, their own tokens included; 0: not known
  int32_t heads = 0;
  bool deterministic = false;  // the form may not depend on where chunks were cut
};

enum class MlaPrefillForm : uint8_t {
  kNaive,    // keys and values of all heads are made from the whole context, once a row
  kAbsorbed  // queries attend to the latents themselves, at 3.4 times the work a pair
};

// Prefill rows may be absorbed up to so many tokens a row (with more the naive form is cheaper at
// any context), and so many (token, head) pairs of the step, of all of which queries and latents
// are held at once.
inline constexpr int32_t kMlaAbsorbedTokensMax = 256;
inline constexpr int64_t kMlaAbsorbedPairsMax = 32'768;

MlaPrefillForm choose_mla_prefill(const MlaPrefillProblem& problem);

}  // namespace fathom
