// Bounds of a step from the plan and the facts of its slots.
#include "engine/step_shape.h"

#include <algorithm>

namespace fathom {
namespace {

SlotFacts& at(std::span<SlotFacts> facts, SlotId slot) {
  FATHOM_CHECK(slot > 0 && static_cast<size_t>(slot) < facts.size(), "plan names no such slot");
  return facts[static_cast<size_t>(slot)];
}

const SlotFacts& at(std::span<const SlotFacts> facts, SlotId slot) {
  FATHOM_CHECK(slot > 0 && static_cast<size_t>(slot) < facts.size(), "plan names no such slot");
  return facts[static_cast<size_t>(slot)];
}

}  // namespace

void apply_deltas(const StepPlan& plan, std::span<SlotFacts> facts) {
  for (SlotId slot : plan.close) at(facts, slot) = SlotFacts{};
  for (const OpenSlot& open : plan.open) {
    FATHOM_CHECK(open.sampling != nullptr && open.tokens != nullptr, "an opened slot lacks values");
    at(facts, open.slot) = SlotFacts{
        .open = true,
        .prompt_logprobs = open.sampling->prompt_logprobs,
        .logprobs = open.sampling->logprobs,
        .prompt_tokens = open.prompt_tokens,
        .prefilled_tokens = open.computed_tokens,
        .blocks = 0,
    };
  }
  for (const AppendBlocks& append : plan.append) {
    SlotFacts& slot = at(facts, append.slot);
    slot.blocks = std::max(slot.blocks, append.first + static_cast<int32_t>(append.blocks.size()));
  }
}

void count_prefill(const StepPlan& plan, std::span<SlotFacts> facts) {
  for (const PlanRow& row : plan.rows) {
    if (row.kind == RowKind::kPrefill) at(facts, row.slot).prefilled_tokens += row.tokens;
  }
}

int32_t sample_bound(const PlanRow& row, const SlotFacts& facts) {
  if (row.kind != RowKind::kPrefill) return row.tokens;
  if (facts.prompt_logprobs) return row.tokens;
  return row.sample ? 1 : 0;
}

StepShape step_shape(const StepPlan& plan, std::span<const SlotFacts> facts, int32_t block_tokens) {
  StepShape shape;
  shape.rows = static_cast<int32_t>(plan.rows.size());
  for (const PlanRow& row : plan.rows) {
    const SlotFacts& slot = at(facts, row.slot);
    FATHOM_CHECK(slot.open, "a plan's row names a slot that is not open");
    if (row.kind == RowKind::kPrefill) {
      shape.prefill_tokens_max = std::max(shape.prefill_tokens_max, row.tokens);
      shape.prefill_context_tokens += slot.prefilled_tokens + row.tokens;
    } else {
      FATHOM_CHECK(shape.prefill_tokens_max == 0, "decode and verify rows come first");
      ++shape.decode_rows;
      shape.query_tokens_max = std::max(shape.query_tokens_max, row.tokens);
    }
    shape.tokens += row.tokens;
    shape.sample_rows += sample_bound(row, slot);
    shape.context_tokens_max = std::max(shape.context_tokens_max, slot.blocks * block_tokens);
  }
  return shape;
}

void StepReading::set(const StepPlan& plan, std::span<const SlotFacts> facts) {
  slots.clear();
  logprobs.clear();
  int32_t sample_first = 0;
  for (const PlanRow& row : plan.rows) {
    const SlotFacts& slot = at(facts, row.slot);
    const bool of_prompt = row.kind == RowKind::kPrefill && slot.prompt_logprobs;
    if (slot.logprobs || of_prompt) {
      RowLogprobs one{.row = static_cast<int32_t>(slots.size()),
                      .kind = row.kind,
                      .prompt_logprobs = of_prompt,
                      .sample_first = sample_first,
                      .logprobs = slot.logprobs};
      if (of_prompt) {
        one.prompt_logprobs_max = std::max(0, slot.prompt_tokens - 1 - slot.prefilled_tokens);
      }
      logprobs.push_back(one);
    }
    slots.push_back(row.slot);
    sample_first += sample_bound(row, slot);
  }
}

bool touches_rows_of(const StepPlan& later, std::span<const SlotId> earlier) {
  auto had_row = [&](SlotId slot) {
    return std::find(earlier.begin(), earlier.end(), slot) != earlier.end();
  };
  return std::any_of(later.close.begin(), later.close.end(), had_row) ||
         std::any_of(later.open.begin(), later.open.end(),
                     [&](const OpenSlot& open) { return had_row(open.slot); }) ||
         std::any_of(later.rows.begin(), later.rows.end(),
                     [&](const PlanRow& row) { return had_row(row.slot); });
}

}  // namespace fathom
