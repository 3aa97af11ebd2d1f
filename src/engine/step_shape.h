// What the host may know of a step before it has run: bounds that follow from the plans alone.
// Pure functions and values; used by every rank's StepProgram on its own thread.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "fathom/batch.h"
#include "fathom/plan.h"

namespace fathom {

// Of an open slot, what its OpenSlot, its appended blocks and its prefill rows say. Never a value
// that a step computed.
struct SlotFacts {
  bool open = false;
  bool prompt_logprobs = false;
  std::optional<int32_t> logprobs;
  int32_t prompt_tokens = 0;
  int32_t prefilled_tokens = 0;  // computed at open, and planned by prefill rows since
  int32_t blocks = 0;            // entries of the longest block table
};

// Applies a plan's close, open and append deltas, in that order.
void apply_deltas(const StepPlan& plan, std::span<SlotFacts> facts);
// Counts the plan's prefill rows. After step_shape and StepReading::set of the same plan.
void count_prefill(const StepPlan& plan, std::span<SlotFacts> facts);

// Rows of logits that a plan row asks for at most: decode and verify rows one per token, a prefill
// row one when it samples, or one per token when its slot wants prompt logprobs.
int32_t sample_bound(const PlanRow& row, const SlotFacts& facts);

// `facts` with the plan's deltas applied.
StepShape step_shape(const StepPlan& plan, std::span<const SlotFacts> facts, int32_t block_tokens);

// Where the logprobs of one row lie in the sample output, and how much of them was asked for.
struct RowLogprobs {
  int32_t row = 0;  // of the plan's
  RowKind kind = RowKind::kDecode;
  bool prompt_logprobs = false;
  int32_t sample_first = 0;  // its first sample row
  std::optional<int32_t> logprobs;
  int32_t prompt_logprobs_max = 0;  // prompt tokens that follow the row's tokens
};

// What of a step's output is for whom: the plan's rows in order, and those that want logprobs. Kept
// from step to step for its memory.
struct StepReading {
  std::vector<SlotId> slots;
  std::vector<RowLogprobs> logprobs;

  // `facts` as for step_shape.
  void set(const StepPlan& plan, std::span<const SlotFacts> facts);
};

// Whether `later` touches (names in a row, closes or opens) a slot that `earlier` has a row for: on
// a stage that does not sample, the earlier step's samples must be applied before the later plan.
bool touches_rows_of(const StepPlan& later, std::span<const SlotId> earlier);

}  // namespace fathom
