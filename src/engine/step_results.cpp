// From output arrays to row results.
#include "engine/step_results.h"

#include <algorithm>

namespace fathom {
namespace {

TokenLogprobs read_logprobs(const SampleOutput& out, int32_t sample_row, int32_t count) {
  TokenLogprobs one{.chosen = out.logprob.as<float>()[sample_row], .top = {}};
  const int64_t first = int64_t{sample_row} * kLogprobsMax;
  const TokenId* ids = out.top_ids.as<TokenId>() + first;
  const float* values = out.top_logprobs.as<float>() + first;
  one.top.reserve(static_cast<size_t>(count));
  for (int32_t i = 0; i < count; ++i) one.top.emplace_back(ids[i], values[i]);
  return one;
}

void read_row_logprobs(const RowLogprobs& asked, const SampleOutput& out, RowResult& row) {
  const int32_t wanted = asked.logprobs.value_or(0);
  if (asked.prompt_logprobs) {
    const int32_t count = std::min(row.accepted, asked.prompt_logprobs_max);
    for (int32_t i = 0; i < count; ++i) {
      row.prompt_logprobs.push_back(read_logprobs(out, asked.sample_first + i, wanted));
    }
  }
  if (!asked.logprobs) return;
  // A prefill row that has a sample row per token draws its token at the last one.
  const bool at_last = asked.kind == RowKind::kPrefill && asked.prompt_logprobs;
  const int32_t first = asked.sample_first + (at_last ? row.accepted - 1 : 0);
  for (size_t i = 0; i < row.tokens.size(); ++i) {
    row.logprobs.push_back(read_logprobs(out, first + static_cast<int32_t>(i), wanted));
  }
}

}  // namespace

std::vector<RowResult> read_results(const StepReading& reading, const SampleOutput& out) {
  const size_t count = reading.slots.size();
  const auto* accepted = out.accepted.as<int32_t>();
  const auto* new_count = out.new_count.as<int32_t>();
  const auto* new_tokens = out.new_tokens.as<TokenId>();
  const auto* finish = out.finish.as<uint8_t>();
  const auto* drafted = out.drafted.as<int32_t>();
  const int64_t width = out.new_tokens.stride[0];
  std::vector<RowResult> rows(count);
  for (size_t r = 0; r < count; ++r) {
    FATHOM_CHECK(new_count[r] >= 0 && new_count[r] <= width,
                 "a step made more tokens than it could");
    const TokenId* tokens = new_tokens + static_cast<int64_t>(r) * width;
    RowResult& row = rows[r];
    row.slot = reading.slots[r];
    row.accepted = accepted[r];
    row.tokens.assign(tokens, tokens + new_count[r]);
    row.finish = static_cast<FinishReason>(finish[r]);
    row.drafted = drafted[r];
  }
  for (const RowLogprobs& asked : reading.logprobs) {
    read_row_logprobs(asked, out, rows[static_cast<size_t>(asked.row)]);
  }
  return rows;
}

}  // namespace fathom
