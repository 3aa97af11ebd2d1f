// A plan's deltas to the slot table: close, open, append blocks.
#include <algorithm>

#include "ops/cpu/cpu_ops_impl.h"
#include "ops/cpu/slot_row.h"
#include "ops/cpu/slot_sampling.h"

namespace fathom {

SlotSampling slot_sampling(const OpenSlot& open, const SlotLimits& limits) {
  const SamplingParams& from = *open.sampling;
  FATHOM_CHECK(
      from.stop_token_ids.size() <= kStopTokenIdsMax && from.logit_bias.size() <= kLogitBiasMax,
      "sampling parameters are over their limits");
  SlotSampling to;
  to.temperature = from.temperature;
  to.top_p = from.top_p;
  to.min_p = from.min_p;
  to.presence_penalty = from.presence_penalty;
  to.frequency_penalty = from.frequency_penalty;
  to.repetition_penalty = from.repetition_penalty;
  to.top_k = from.top_k;
  to.logprobs = from.logprobs ? std::min(*from.logprobs, kLogprobsMax) : -1;
  to.prompt_logprobs = from.prompt_logprobs ? 1 : 0;
  to.seed_low = static_cast<uint32_t>(from.seed);
  to.seed_high = static_cast<uint32_t>(from.seed >> 32);
  to.prompt_tokens = open.prompt_tokens;
  to.total_tokens_max = static_cast<int32_t>(
      std::min<int64_t>(int64_t{open.prompt_tokens} + from.max_tokens, limits.tokens_max));
  to.min_total_tokens = open.prompt_tokens + from.min_tokens;
  to.ignore_eos = from.ignore_eos ? 1 : 0;
  to.stop_id_count = static_cast<int32_t>(from.stop_token_ids.size());
  std::copy(from.stop_token_ids.begin(), from.stop_token_ids.end(), to.stop_ids);
  to.bias_count = static_cast<int32_t>(from.logit_bias.size());
  to.uses_penalties = from.presence_penalty != 0.0F || from.frequency_penalty != 0.0F ||
                              from.repetition_penalty != 1.0F
                          ? 1
                          : 0;
  return to;
}

namespace {

void clear(const SlotTable& table, SlotId slot) {
  const SlotRow row(table, slot);
  row.length() = 0;
  row.computed() = 0;
  row.draft_count() = 0;
  row.finish(FinishReason::kNone);
  row.sampling() = SlotSampling{};
  for (int32_t g = 0; g < table.limits.cache_groups; ++g) {
    std::fill_n(row.blocks(g), table.limits.blocks_max, 0);
  }
}

void open_slot(const SlotTable& table, const OpenSlot& open) {
  clear(table, open.slot);
  const SlotRow row(table, open.slot);
  const auto length = static_cast<int32_t>(open.tokens->size());
  FATHOM_CHECK(length > 0 && length <= table.limits.tokens_max && open.prompt_tokens <= length &&
                   open.computed_tokens < length,
               "a slot was opened with a sequence that does not fit");
  std::copy(open.tokens->begin(), open.tokens->end(), row.history());
  row.length() = length;
  row.computed() = open.computed_tokens;
  row.sampling() = slot_sampling(open, table.limits);
  int32_t i = 0;
  for (const auto& [id, value] : open.sampling->logit_bias) {
    row.bias_ids()[i] = id;
    row.bias_values()[i] = value;
    ++i;
  }
}

}  // namespace

void CpuOps::edit_slots(const SlotTable& slots, const StepPlan& plan) {
  for (const SlotId slot : plan.close) clear(slots, slot);
  for (const OpenSlot& open : plan.open) open_slot(slots, open);
  for (const AppendBlocks& append : plan.append) {
    const auto count = static_cast<int32_t>(append.blocks.size());
    FATHOM_CHECK(append.group < slots.limits.cache_groups && append.first >= 0 &&
                     append.first + count <= slots.limits.blocks_max,
                 "a plan appends blocks past the table's end");
    std::copy(append.blocks.begin(), append.blocks.end(),
              SlotRow(slots, append.slot).blocks(append.group) + append.first);
  }
}

}  // namespace fathom
