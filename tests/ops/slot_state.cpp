#include "ops/slot_state.h"

#include <algorithm>
#include <cstring>

#include "ops/op_inputs.h"

namespace fathom::testing {
namespace {

template <typename T>
Tensor place_rows(Ops& ops, const std::vector<T>& values, DType dtype, int64_t rows) {
  const auto columns = static_cast<int64_t>(values.size()) / rows;
  return ops.place(host_tensor(values, dtype, {rows, columns}), dtype).value();
}

template <typename T>
std::vector<double> doubles(const std::vector<T>& values) {
  return {values.begin(), values.end()};
}

int32_t query_of(const SlotState& s, const PlanRow& row) {
  if (s.finished[row.slot] != 0) return 0;
  const int32_t left = s.length[row.slot] - s.computed[row.slot];
  if (row.kind == RowKind::kPrefill) return std::min(row.tokens, left);
  if (row.kind == RowKind::kDecode) return 1;
  const int32_t room = s.sampling[row.slot].total_tokens_max - s.length[row.slot] - 1;
  return 1 + std::max(0, std::min({s.draft_count[row.slot], room, row.tokens - 1}));
}

int32_t token_at(const SlotState& s, int32_t slot, int32_t position) {
  const auto width = static_cast<int64_t>(s.history.size()) / s.limits.slots;
  if (position < s.length[slot]) return s.history[slot * width + position];
  return s.drafts[int64_t{slot} * s.limits.drafts_max + position - s.length[slot]];
}

void add_samples(HostBatch& b, const SlotState& s, const PlanRow& row, int32_t r, int32_t query) {
  const bool prefill = row.kind == RowKind::kPrefill;
  const bool all = !prefill || s.sampling[row.slot].prompt_logprobs != 0;
  const int32_t wanted = all ? row.tokens : row.sample ? 1 : 0;
  for (int32_t i = 0; i < wanted; ++i) {
    const int32_t token = prefill && wanted == 1 ? query - 1 : std::min(i, query - 1);
    b.sample_tokens.push_back(b.row_first[r] + std::max(token, 0));
    b.sample_row.push_back(r);
  }
}

// What the shape has more than the plan.
void pad(HostBatch& b) {
  const auto tokens = static_cast<int32_t>(b.token_ids.size());
  const auto rows = static_cast<size_t>(b.shape.rows);
  b.row_slot.resize(rows);
  b.row_kind.resize(rows);
  b.row_query.resize(rows);
  b.row_context.resize(rows);
  b.row_first.resize(rows + 1, tokens);
  b.token_row.resize(static_cast<size_t>(b.shape.tokens), b.shape.rows - 1);
  for (auto* list : {&b.token_ids, &b.positions}) list->resize(b.token_row.size());
  b.token_valid.resize(b.token_row.size());
  b.sample_tokens.resize(static_cast<size_t>(b.shape.sample_rows));
  b.sample_row.resize(b.sample_tokens.size(), b.shape.rows);
}

}  // namespace

SlotState::SlotState(const SlotLimits& l) : limits(l) {
  history.resize(int64_t{l.slots} * (l.tokens_max + l.drafts_max + 1));
  length.resize(l.slots);
  computed.resize(l.slots);
  finished.resize(l.slots);
  block_table.resize(int64_t{l.cache_groups} * l.slots * l.blocks_max);
  drafts.resize(int64_t{l.slots} * std::max(l.drafts_max, 1));
  draft_count.resize(l.slots);
  sampling.resize(l.slots);
  bias_ids.resize(int64_t{l.slots} * kLogitBiasMax);
  bias_values.resize(int64_t{l.slots} * kLogitBiasMax);
}

SlotTable place_slots(Ops& ops, const SlotState& s) {
  const int64_t slots = s.limits.slots;
  SlotTable t;
  t.limits = s.limits;
  t.history = place_rows(ops, s.history, DType::kI32, slots);
  t.length = place_ints(ops, s.length);
  t.computed = place_ints(ops, s.computed);
  t.finished = place_bytes(ops, s.finished);
  t.block_table = ops.place(host_tensor(s.block_table, DType::kI32,
                                        {s.limits.cache_groups, slots, s.limits.blocks_max}),
                            DType::kI32)
                      .value();
  t.drafts = place_rows(ops, s.drafts, DType::kI32, slots);
  t.draft_count = place_ints(ops, s.draft_count);
  std::vector<uint8_t> sampling(s.sampling.size() * sizeof(SlotSampling));
  std::memcpy(sampling.data(), s.sampling.data(), sampling.size());
  t.sampling = place_rows(ops, sampling, DType::kU8, slots);
  t.bias_ids = place_rows(ops, s.bias_ids, DType::kI32, slots);
  t.bias_values = place_rows(ops, s.bias_values, DType::kF32, slots);
  return t;
}

std::vector<OpOutput> slot_outputs(const SlotTable& t) {
  return {{"history", {t.history, {}, {}}, true},
          {"length", {t.length, {}, {}}, true},
          {"computed", {t.computed, {}, {}}, true},
          {"finished", {t.finished, {}, {}}, true},
          {"slot drafts", {t.drafts, {}, {}}, true},
          {"slot draft counts", {t.draft_count, {}, {}}, true}};
}

ExpectedValues slot_values(const SlotState& s) {
  return {doubles(s.history),  doubles(s.length), doubles(s.computed),
          doubles(s.finished), doubles(s.drafts), doubles(s.draft_count)};
}

HostBatch resolved(const SlotState& s, const StepPlan& plan, const StepShape& shape) {
  HostBatch b;
  b.shape = shape;
  for (const PlanRow& row : plan.rows) {
    const auto r = static_cast<int32_t>(b.row_slot.size());
    const int32_t query = query_of(s, row);
    b.row_slot.push_back(row.slot);
    b.row_kind.push_back(static_cast<int32_t>(row.kind));
    b.row_first.push_back(static_cast<int32_t>(b.token_ids.size()));
    b.row_query.push_back(query);
    b.row_context.push_back(s.computed[row.slot]);
    for (int32_t i = 0; i < row.tokens; ++i) {
      const int32_t position = s.computed[row.slot] + i;
      b.token_ids.push_back(i < query ? token_at(s, row.slot, position) : 0);
      b.token_row.push_back(r);
      b.positions.push_back(i < query ? position : 0);
      b.token_valid.push_back(i < query ? 1 : 0);
    }
    add_samples(b, s, row, r, query);
  }
  pad(b);
  return b;
}

BatchView place_batch(Ops& ops, const HostBatch& b, const SlotTable& table) {
  BatchView view;
  view.shape = b.shape;
  view.row_slot = place_ints(ops, b.row_slot);
  view.row_kind = place_ints(ops, b.row_kind);
  view.row_first = place_ints(ops, b.row_first);
  view.row_query = place_ints(ops, b.row_query);
  view.row_context = place_ints(ops, b.row_context);
  view.token_ids = place_ints(ops, b.token_ids);
  view.token_row = place_ints(ops, b.token_row);
  view.positions = place_ints(ops, b.positions);
  view.token_valid = place_bytes(ops, b.token_valid);
  view.sample_tokens = place_ints(ops, b.sample_tokens);
  view.sample_row = place_ints(ops, b.sample_row);
  view.block_table = table.block_table;
  return view;
}

BatchView reserve_batch(Ops& ops, const StepShape& shape) {
  const auto ints = [&](int64_t n) { return ops.reserve(DType::kI32, {n}).value(); };
  BatchView view;
  view.shape = shape;
  view.row_slot = ints(shape.rows);
  view.row_kind = ints(shape.rows);
  view.row_first = ints(shape.rows + 1);
  view.row_query = ints(shape.rows);
  view.row_context = ints(shape.rows);
  view.token_ids = ints(shape.tokens);
  view.token_row = ints(shape.tokens);
  view.positions = ints(shape.tokens);
  view.token_valid = ops.reserve(DType::kU8, {shape.tokens}).value();
  view.sample_tokens = ints(shape.sample_rows);
  view.sample_row = ints(shape.sample_rows);
  return view;
}

std::vector<OpOutput> batch_outputs(const BatchView& b) {
  return {{"row slot", {b.row_slot, {}, {}}, true},
          {"row kind", {b.row_kind, {}, {}}, true},
          {"row first", {b.row_first, {}, {}}, true},
          {"row query", {b.row_query, {}, {}}, true},
          {"row context", {b.row_context, {}, {}}, true},
          {"token ids", {b.token_ids, {}, {}}, true},
          {"token row", {b.token_row, {}, {}}, true},
          {"positions", {b.positions, {}, {}}, true},
          {"token valid", {b.token_valid, {}, {}}, true},
          {"sample tokens", {b.sample_tokens, {}, {}}, true},
          {"sample row", {b.sample_row, {}, {}}, true}};
}

ExpectedValues batch_values(const HostBatch& b) {
  return {doubles(b.row_slot),      doubles(b.row_kind),    doubles(b.row_first),
          doubles(b.row_query),     doubles(b.row_context), doubles(b.token_ids),
          doubles(b.token_row),     doubles(b.positions),   doubles(b.token_valid),
          doubles(b.sample_tokens), doubles(b.sample_row)};
}

SampleOutput reserve_sample_output(Ops& ops, const StepShape& shape, int32_t drafts_max) {
  const auto ints = [&](int64_t rows, int64_t columns) {
    return ops.reserve_output(DType::kI32, {rows, columns}).value();
  };
  const auto list = [&](DType dtype, int64_t n) { return ops.reserve_output(dtype, {n}).value(); };
  SampleOutput out;
  out.accepted = list(DType::kI32, shape.rows);
  out.new_count = list(DType::kI32, shape.rows);
  out.new_tokens = ints(shape.rows, drafts_max + 1);
  out.drafted = list(DType::kI32, shape.rows);
  out.finish = list(DType::kU8, shape.rows);
  out.draft_count = list(DType::kI32, shape.rows);
  if (drafts_max > 0) out.drafts = ints(shape.rows, drafts_max);
  out.logprob = list(DType::kF32, shape.sample_rows);
  out.top_ids = ints(shape.sample_rows, kLogprobsMax);
  out.top_logprobs = ops.reserve_output(DType::kF32, {shape.sample_rows, kLogprobsMax}).value();
  return out;
}

}  // namespace fathom::testing
