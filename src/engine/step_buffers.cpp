// Layout of the fixed arrays, and their cut to one step.
#include "engine/step_buffers.h"

#include <algorithm>

namespace fathom {
namespace {

// `count` int32 of `block` from `at` on, as [rows, columns] (or [rows] when columns is 0).
Tensor cut(const Tensor& block, int64_t& at, int64_t rows, int64_t columns) {
  int32_t* data = block.data == nullptr ? nullptr : block.as<int32_t>() + at;
  at += rows * std::max<int64_t>(columns, 1);
  return columns == 0 ? Tensor::of(data, DType::kI32, {rows})
                      : Tensor::of(data, DType::kI32, {rows, columns});
}

}  // namespace

Result<SlotTable> make_slot_table(Ops& ops, const SlotLimits& limits) {
  const int64_t slots = limits.slots;
  SlotTable table;
  table.limits = limits;
  FATHOM_ASSIGN(table.history,
                ops.reserve(DType::kI32, {slots, limits.tokens_max + limits.drafts_max + 1}));
  FATHOM_ASSIGN(table.length, ops.reserve(DType::kI32, {slots}));
  FATHOM_ASSIGN(table.computed, ops.reserve(DType::kI32, {slots}));
  FATHOM_ASSIGN(table.finished, ops.reserve(DType::kU8, {slots}));
  FATHOM_ASSIGN(table.block_table,
                ops.reserve(DType::kI32, {limits.cache_groups, slots, limits.blocks_max}));
  FATHOM_ASSIGN(table.drafts, ops.reserve(DType::kI32, {slots, std::max(limits.drafts_max, 1)}));
  FATHOM_ASSIGN(table.draft_count, ops.reserve(DType::kI32, {slots}));
  FATHOM_ASSIGN(table.sampling,
                ops.reserve(DType::kU8, {slots, static_cast<int64_t>(sizeof(SlotSampling))}));
  FATHOM_ASSIGN(table.bias_ids, ops.reserve(DType::kI32, {slots, kLogitBiasMax}));
  FATHOM_ASSIGN(table.bias_values, ops.reserve(DType::kF32, {slots, kLogitBiasMax}));
  return table;
}

Result<BatchArrays> BatchArrays::make(Ops& ops, const StepLimits& limits) {
  BatchArrays arrays;
  arrays.limits_ = limits;
  BatchView& b = arrays.whole_;
  FATHOM_ASSIGN(b.row_slot, ops.reserve(DType::kI32, {limits.rows_max}));
  FATHOM_ASSIGN(b.row_kind, ops.reserve(DType::kI32, {limits.rows_max}));
  FATHOM_ASSIGN(b.row_first, ops.reserve(DType::kI32, {limits.rows_max + 1}));
  FATHOM_ASSIGN(b.row_query, ops.reserve(DType::kI32, {limits.rows_max}));
  FATHOM_ASSIGN(b.row_context, ops.reserve(DType::kI32, {limits.rows_max}));
  FATHOM_ASSIGN(b.token_ids, ops.reserve(DType::kI32, {limits.tokens_max}));
  FATHOM_ASSIGN(b.token_row, ops.reserve(DType::kI32, {limits.tokens_max}));
  FATHOM_ASSIGN(b.positions, ops.reserve(DType::kI32, {limits.tokens_max}));
  FATHOM_ASSIGN(b.token_valid, ops.reserve(DType::kU8, {limits.tokens_max}));
  FATHOM_ASSIGN(b.sample_tokens, ops.reserve(DType::kI32, {limits.sample_rows_max}));
  FATHOM_ASSIGN(b.sample_row, ops.reserve(DType::kI32, {limits.sample_rows_max}));
  return arrays;
}

BatchView BatchArrays::view(const StepShape& shape, const SlotTable& slots) const {
  FATHOM_CHECK(shape.rows <= limits_.rows_max, "a plan has more rows than were planned for");
  FATHOM_CHECK(shape.tokens <= limits_.tokens_max, "a plan has more tokens than were planned for");
  FATHOM_CHECK(shape.sample_rows <= limits_.sample_rows_max,
               "a plan samples more rows than were planned for");
  BatchView b = whole_;
  b.shape = shape;
  for (Tensor* rows : {&b.row_slot, &b.row_kind, &b.row_query, &b.row_context}) {
    *rows = rows->rows(0, shape.rows);
  }
  b.row_first = b.row_first.rows(0, shape.rows + 1);
  for (Tensor* tokens : {&b.token_ids, &b.token_row, &b.positions, &b.token_valid}) {
    *tokens = tokens->rows(0, shape.tokens);
  }
  b.sample_tokens = b.sample_tokens.rows(0, shape.sample_rows);
  b.sample_row = b.sample_row.rows(0, shape.sample_rows);
  b.block_table = slots.block_table;
  return b;
}

Result<OutputArrays> OutputArrays::make(Ops& ops, const StepLimits& limits, int32_t drafts_max) {
  OutputArrays arrays;
  const int64_t rows = limits.rows_max;
  // accepted, new_count, drafted, draft_count; new_tokens; drafts; finish as bytes.
  const int64_t finish_words = (rows + 3) / 4;
  const int64_t words = rows * (4 + drafts_max + 1 + drafts_max) + finish_words;
  FATHOM_ASSIGN(arrays.applied_, ops.reserve_output(DType::kI32, {words}));
  SampleOutput& out = arrays.whole_;
  int64_t at = 0;
  out.accepted = cut(arrays.applied_, at, rows, 0);
  out.new_count = cut(arrays.applied_, at, rows, 0);
  out.drafted = cut(arrays.applied_, at, rows, 0);
  out.draft_count = cut(arrays.applied_, at, rows, 0);
  out.new_tokens = cut(arrays.applied_, at, rows, drafts_max + 1);
  if (drafts_max > 0) out.drafts = cut(arrays.applied_, at, rows, drafts_max);
  out.finish = Tensor::of(cut(arrays.applied_, at, finish_words, 0).data, DType::kU8, {rows});
  FATHOM_CHECK(at == words, "sampling output is laid out wrongly");

  const int64_t samples = limits.sample_rows_max;
  FATHOM_ASSIGN(out.logprob, ops.reserve_output(DType::kF32, {samples}));
  FATHOM_ASSIGN(out.top_ids, ops.reserve_output(DType::kI32, {samples, kLogprobsMax}));
  FATHOM_ASSIGN(out.top_logprobs, ops.reserve_output(DType::kF32, {samples, kLogprobsMax}));
  return arrays;
}

SampleOutput OutputArrays::view(const StepShape& shape) const {
  SampleOutput out = whole_;
  for (Tensor* rows : {&out.accepted, &out.new_count, &out.drafted, &out.draft_count,
                       &out.new_tokens, &out.finish}) {
    *rows = rows->rows(0, shape.rows);
  }
  if (out.drafts.defined()) out.drafts = out.drafts.rows(0, shape.rows);
  for (Tensor* samples : {&out.logprob, &out.top_ids, &out.top_logprobs}) {
    *samples = samples->rows(0, shape.sample_rows);
  }
  return out;
}

}  // namespace fathom
