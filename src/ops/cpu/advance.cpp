// Resolves a plan's rows, which know upper bounds only, against the slot table.
#include <algorithm>

#include "ops/cpu/cpu_ops_impl.h"
#include "ops/cpu/slot_row.h"

namespace fathom {
namespace {

// Drafts that the row may verify: those that the slot has, the plan allows and the answer's length
// leaves room for.
int32_t drafts_of(const SlotRow& slot, const PlanRow& row) {
  if (row.kind != RowKind::kVerify) return 0;
  const int32_t room = slot.sampling().total_tokens_max - slot.length() - 1;
  return std::clamp(std::min(slot.draft_count(), room), 0, row.tokens - 1);
}

int32_t query_of(const SlotRow& slot, const PlanRow& row) {
  if (slot.finished() != FinishReason::kNone) return 0;
  const int32_t left = slot.length() - slot.computed();
  if (row.kind == RowKind::kPrefill) return std::min(row.tokens, left);
  FATHOM_CHECK(left == 1, "a decode row's slot has prompt left to compute");
  return 1 + drafts_of(slot, row);
}

// Sample rows that the plan's bound gives to a row: the host counts the same.
int32_t sample_rows_of(const SlotRow& slot, const PlanRow& row) {
  if (row.kind != RowKind::kPrefill) return row.tokens;
  if (slot.sampling().prompt_logprobs != 0) return row.tokens;
  return row.sample ? 1 : 0;
}

// Fills the token arrays of a row from `first` on, and its padding.
void fill_tokens(const SlotRow& slot, int32_t row, int32_t bound, int32_t query, int32_t first,
                 BatchView& batch) {
  for (int32_t i = 0; i < bound; ++i) {
    const int32_t t = first + i;
    const int32_t position = slot.computed() + i;
    const bool valid = i < query;
    int32_t id = 0;
    if (valid) {
      id = position < slot.length() ? slot.history()[position]
                                    : slot.drafts()[position - slot.length()];
    }
    batch.token_ids.as<int32_t>()[t] = id;
    batch.token_row.as<int32_t>()[t] = row;
    batch.positions.as<int32_t>()[t] = valid ? position : 0;
    batch.token_valid.as<uint8_t>()[t] = valid ? 1 : 0;
  }
}

// Rows, tokens and sample rows past the plan's.
void fill_padding(int32_t rows, int32_t tokens, int32_t samples, BatchView& batch) {
  for (int32_t r = rows; r < batch.shape.rows; ++r) {
    batch.row_slot.as<int32_t>()[r] = 0;
    batch.row_kind.as<int32_t>()[r] = static_cast<int32_t>(RowKind::kDecode);
    batch.row_first.as<int32_t>()[r] = tokens;
    batch.row_query.as<int32_t>()[r] = 0;
    batch.row_context.as<int32_t>()[r] = 0;
  }
  for (int32_t t = tokens; t < batch.shape.tokens; ++t) {
    batch.token_ids.as<int32_t>()[t] = 0;
    batch.token_row.as<int32_t>()[t] = batch.shape.rows - 1;
    batch.positions.as<int32_t>()[t] = 0;
    batch.token_valid.as<uint8_t>()[t] = 0;
  }
  for (int32_t s = samples; s < batch.shape.sample_rows; ++s) {
    batch.sample_tokens.as<int32_t>()[s] = 0;
    batch.sample_row.as<int32_t>()[s] = batch.shape.rows;
  }
}

}  // namespace

void CpuOps::advance(const SlotTable& slots, const StepPlan& plan, BatchView& batch) {
  const auto rows = static_cast<int32_t>(plan.rows.size());
  FATHOM_CHECK(rows <= batch.shape.rows && plan.token_count() <= batch.shape.tokens,
               "the batch's shape has no room for the plan");
  int32_t first = 0;
  int32_t sample = 0;
  for (int32_t r = 0; r < rows; ++r) {
    const PlanRow& row = plan.rows[r];
    const SlotRow slot(slots, row.slot);
    const int32_t query = query_of(slot, row);
    batch.row_slot.as<int32_t>()[r] = row.slot;
    batch.row_kind.as<int32_t>()[r] = static_cast<int32_t>(row.kind);
    batch.row_first.as<int32_t>()[r] = first;
    batch.row_query.as<int32_t>()[r] = query;
    batch.row_context.as<int32_t>()[r] = slot.computed();
    fill_tokens(slot, r, row.tokens, query, first, batch);
    const int32_t wanted = sample_rows_of(slot, row);
    FATHOM_CHECK(sample + wanted <= batch.shape.sample_rows,
                 "the batch's shape has too few sample rows for the plan");
    for (int32_t i = 0; i < wanted; ++i, ++sample) {
      const bool last_only = row.kind == RowKind::kPrefill && wanted == 1;
      const int32_t token = last_only ? query - 1 : std::min(i, query - 1);
      batch.sample_tokens.as<int32_t>()[sample] = first + std::max(token, 0);
      batch.sample_row.as<int32_t>()[sample] = r;
    }
    first += row.tokens;
  }
  batch.row_first.as<int32_t>()[batch.shape.rows] = first;
  fill_padding(rows, first, sample, batch);
  batch.block_table = slots.block_table;
}

}  // namespace fathom
