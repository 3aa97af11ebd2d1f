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

void read_row_logprobs(const RowReading& reading, const SampleOutput& out, RowResult& row) {
  const int32_t wanted = reading.logprobs.value_or(0);
  if (reading.prompt_logprobs) {
    const int32_t count = std::min(row.accepted, reading.prompt_logprobs_max);
    for (int32_t i = 0; i < count; ++i) {
      row.prompt_logprobs.push_back(read_logprobs(out, reading.sample_first + i, wanted));
    }
  }
  if (!reading.logprobs) return;
  // A prefill row that has a sample row per token draws its token at the last one.
  const bool at_last = reading.kind == RowKind::kPrefill && reading.prompt_logprobs;
  const int32_t first = reading.sample_first + (at_last ? row.accepted - 1 : 0);
  for (size_t i = 0; i < row.tokens.size(); ++i) {
    row.logprobs.push_back(read_logprobs(out, first + static_cast<int32_t>(i), wanted));
  }
}

}  // namespace

std::vector<RowResult> read_results(std::span<const RowReading> readings, const SampleOutput& out) {
  std::vector<RowResult> rows;
  rows.reserve(readings.size());
  const int64_t width = out.new_tokens.stride[0];
  for (size_t r = 0; r < readings.size(); ++r) {
    const int32_t count = out.new_count.as<int32_t>()[r];
    FATHOM_CHECK(count >= 0 && count <= width, "a step made more tokens than it could");
    const TokenId* tokens = out.new_tokens.as<TokenId>() + static_cast<int64_t>(r) * width;
    RowResult row;
    row.slot = readings[r].slot;
    row.accepted = out.accepted.as<int32_t>()[r];
    row.tokens.assign(tokens, tokens + count);
    row.finish = static_cast<FinishReason>(out.finish.as<uint8_t>()[r]);
    row.drafted = out.drafted.as<int32_t>()[r];
    read_row_logprobs(readings[r], out, row);
    rows.push_back(std::move(row));
  }
  return rows;
}

}  // namespace fathom
