// The slot table and a step's arrays as host vectors, for cases that set them by hand, and their
// way into a backend. One thread.
#pragma once

#include <vector>

#include "fathom/batch.h"
#include "ops/op_cases.h"

namespace fathom::testing {

// The slot table's content.
struct SlotState {
  explicit SlotState(const SlotLimits& limits);

  // Row `slot` of an array with a row per slot.
  template <typename T>
  T* row(std::vector<T>& array, int32_t slot) const {
    return array.data() + static_cast<int64_t>(array.size()) / limits.slots * slot;
  }
  int32_t* blocks(int32_t group, int32_t slot) {
    return block_table.data() + int64_t{group * limits.slots + slot} * limits.blocks_max;
  }

  SlotLimits limits;
  std::vector<int32_t> history, length, computed, block_table, drafts, draft_count, bias_ids;
  std::vector<uint8_t> finished;
  std::vector<SlotSampling> sampling;
  std::vector<float> bias_values;
};

SlotTable place_slots(Ops& ops, const SlotState& state);
// History, lengths, phases and drafts, and what they should be.
std::vector<OpOutput> slot_outputs(const SlotTable& table);
ExpectedValues slot_values(const SlotState& state);

// A step's arrays.
struct HostBatch {
  StepShape shape;
  std::vector<int32_t> row_slot, row_kind, row_first, row_query, row_context;
  std::vector<int32_t> token_ids, token_row, positions;
  std::vector<uint8_t> token_valid;
  std::vector<int32_t> sample_tokens, sample_row;
};

// What Ops::advance makes of a plan, by its definition (fathom/ops.h), padded to `shape`.
HostBatch resolved(const SlotState& slots, const StepPlan& plan, const StepShape& shape);

BatchView place_batch(Ops& ops, const HostBatch& batch, const SlotTable& table);
// Zeroed arrays with room for `shape`.
BatchView reserve_batch(Ops& ops, const StepShape& shape);
std::vector<OpOutput> batch_outputs(const BatchView& batch);
ExpectedValues batch_values(const HostBatch& batch);

SampleOutput reserve_sample_output(Ops& ops, const StepShape& shape, int32_t drafts_max);

}  // namespace fathom::testing
