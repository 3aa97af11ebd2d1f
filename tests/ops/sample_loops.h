// Sampling by its definition (docs/numerics.md) in float64 and whole lists, for the expected values
// of the sample op.
#pragma once

#include <vector>

#include "ops/slot_state.h"

namespace fathom::testing {

// What Ops::sample writes; entries that it leaves alone are zero.
struct SampledRows {
  std::vector<int32_t> accepted, new_count, new_tokens, drafted, draft_count, top_ids;
  std::vector<uint8_t> finish;
  std::vector<double> logprob, top_logprobs;
};

// Changes `slots` as the op changes the table. logits: [sample_rows, vocab_padded].
SampledRows sample_by_definition(SlotState& slots, const HostBatch& batch,
                                 const std::vector<float>& logits, const std::vector<TokenId>& eos);

}  // namespace fathom::testing
