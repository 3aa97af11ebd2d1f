// The step's frame: slot edits and the resolving of a plan's rows, and what a drafter and the other
// pipeline stages ask of the slot table. All integers: every backend writes the same.
#include <algorithm>
#include <array>
#include <bit>

#include "ops/op_builders.h"
#include "ops/op_inputs.h"
#include "ops/slot_state.h"

namespace fathom::testing {
namespace {

SlotLimits frame_limits() {
  SlotLimits limits;
  limits.slots = 7;
  limits.tokens_max = 40;
  limits.blocks_max = 6;
  limits.cache_groups = 2;
  limits.drafts_max = 3;
  limits.vocab = 100;
  limits.vocab_padded = 128;
  limits.penalty_slots = 7;
  return limits;
}

std::vector<TokenId> tokens_of(int32_t count, int32_t seed) {
  std::vector<TokenId> tokens(count);
  for (int32_t i = 0; i < count; ++i) tokens[i] = (i * 37 + seed * 11) % 100;
  return tokens;
}

OpenSlot open_of(SlotId slot, int32_t tokens, int32_t prompt, int32_t computed,
                 const SamplingParams& sampling) {
  return {slot, std::make_shared<const std::vector<TokenId>>(tokens_of(tokens, slot)), prompt,
          computed, std::make_shared<const SamplingParams>(sampling)};
}

// Slots 1 to 6 before the edits, in all phases of a life.
SlotState lived_in() {
  SlotState s(frame_limits());
  for (int32_t slot = 1; slot < 7; ++slot) {
    const std::vector<TokenId> tokens = tokens_of(30, slot + 50);
    std::copy(tokens.begin(), tokens.end(), s.row(s.history, slot));
    s.length[slot] = 10 + slot;
    s.computed[slot] = 9 + slot;
    s.sampling[slot].prompt_tokens = 8;
    s.sampling[slot].total_tokens_max = 30;
    s.draft_count[slot] = slot % 4;
    for (int32_t i = 0; i < 3; ++i) s.row(s.drafts, slot)[i] = 60 + 3 * slot + i;
    for (int32_t g = 0; g < 2; ++g) {
      for (int32_t i = 0; i < 3; ++i) s.blocks(g, slot)[i] = 1 + 20 * g + 3 * slot + i;
    }
  }
  return s;
}

StepPlan edits() {
  SamplingParams plain;
  plain.temperature = 0.5F;
  plain.seed = 0x123456789ABCDEFU;
  plain.max_tokens = 50;  // more than tokens_max leaves room for
  SamplingParams rich = plain;
  rich.top_k = 7;
  rich.top_p = 0.9F;
  rich.min_p = 0.01F;
  rich.presence_penalty = 0.3F;
  rich.logprobs = 5;
  rich.min_tokens = 2;
  rich.ignore_eos = true;
  rich.stop_token_ids = {3, 99, 7};
  rich.logit_bias = {{5, 1.5F}, {90, -100.0F}};
  StepPlan plan;
  plan.close = {2, 4, 5};
  plan.open = {open_of(2, 12, 12, 0, plain), open_of(5, 20, 14, 8, rich)};
  plan.append = {
      {2, 0, 0, {31, 7}}, {2, 1, 0, {33}}, {5, 0, 0, {8, 9, 10}}, {1, 1, 3, {38, 39, 11}}};
  return plan;
}

// As most steps have them: nothing is opened.
StepPlan small_edits() {
  StepPlan plan;
  plan.close = {4};
  plan.append = {{1, 1, 3, {38, 39, 11}}, {3, 0, 3, {31}}, {3, 1, 3, {32}}, {6, 0, 4, {35}}};
  return plan;
}

void clear(SlotState& s, int32_t slot) {
  s.length[slot] = s.computed[slot] = s.draft_count[slot] = 0;
  s.finished[slot] = 0;
  s.sampling[slot] = SlotSampling{};
  for (int32_t g = 0; g < 2; ++g) std::fill_n(s.blocks(g, slot), s.limits.blocks_max, 0);
}

SlotState edited(const StepPlan& plan) {
  SlotState s = lived_in();
  for (const SlotId slot : plan.close) clear(s, slot);
  for (const OpenSlot& open : plan.open) {
    clear(s, open.slot);
    std::copy(open.tokens->begin(), open.tokens->end(), s.row(s.history, open.slot));
    s.length[open.slot] = static_cast<int32_t>(open.tokens->size());
    s.computed[open.slot] = open.computed_tokens;
    for (size_t i = 0; i < open.sampling->logit_bias.size(); ++i) {
      s.row(s.bias_ids, open.slot)[i] = open.sampling->logit_bias[i].first;
      s.row(s.bias_values, open.slot)[i] = open.sampling->logit_bias[i].second;
    }
  }
  for (const AppendBlocks& append : plan.append) {
    std::copy(append.blocks.begin(), append.blocks.end(),
              s.blocks(append.group, append.slot) + append.first);
  }
  if (plan.open.empty()) return s;
  SlotSampling& plain = s.sampling[2];
  plain.temperature = 0.5F;
  plain.seed_low = 0x89ABCDEFU;
  plain.seed_high = 0x1234567U;
  plain.prompt_tokens = 12;
  plain.total_tokens_max = 40;
  plain.min_total_tokens = 12;
  SlotSampling& rich = s.sampling[5];
  rich = plain;
  rich.top_k = 7;
  rich.top_p = 0.9F;
  rich.min_p = 0.01F;
  rich.presence_penalty = 0.3F;
  rich.logprobs = 5;
  rich.prompt_tokens = 14;
  rich.min_total_tokens = 16;
  rich.ignore_eos = 1;
  rich.stop_id_count = 3;
  rich.stop_ids[0] = 3;
  rich.stop_ids[1] = 99;
  rich.stop_ids[2] = 7;
  rich.bias_count = 2;
  rich.uses_penalties = 1;
  return s;
}

OpCase edit_slots_case(const char* name, StepPlan (*plan)()) {
  const auto prepare = [=](Ops& ops) {
    const SlotTable table = place_slots(ops, lived_in());
    return PreparedOp{[=, &ops]() -> std::vector<OpOutput> {
      ops.edit_slots(table, plan());
      std::vector<OpOutput> outputs = slot_outputs(table);
      outputs.push_back({"block table", {table.block_table, {}, {}}, true});
      outputs.push_back({"sampling", {table.sampling, {}, {}}, true, {4}});  // closed for good
      outputs.push_back({"bias ids", {table.bias_ids, {}, {}}, true});
      outputs.push_back({"bias values", {table.bias_values, {}, {}}, true});
      return outputs;
    }};
  };
  const auto expected = [=](const GoldenVectors&) -> ExpectedValues {
    const SlotState s = edited(plan());
    ExpectedValues values = slot_values(s);
    values.emplace_back(s.block_table.begin(), s.block_table.end());
    std::vector<double>& sampling = values.emplace_back();
    for (int32_t slot = 0; slot < s.limits.slots; ++slot) {
      const auto bytes = std::bit_cast<std::array<uint8_t, sizeof(SlotSampling)>>(s.sampling[slot]);
      if (slot != 4) sampling.insert(sampling.end(), bytes.begin(), bytes.end());
    }
    values.emplace_back(s.bias_ids.begin(), s.bias_ids.end());
    values.emplace_back(s.bias_values.begin(), s.bias_values.end());
    return values;
  };
  return {"edit_slots", name, Numerics::kNative, Precision::kExact, prepare, expected};
}

// Every kind of row: drafts fewer than the plan allows, more than the length leaves room for, a
// slot that has finished, prompts with prompt logprobs, in the middle and at the end.
struct AdvanceInputs {
  SlotState slots{frame_limits()};
  StepPlan plan;
  StepShape shape;
};

AdvanceInputs advance_inputs() {
  AdvanceInputs in;
  // Rows by slot: 3 decode, 1 verify with one draft, 4 verify near its limit, 5 finished.
  const int32_t length[] = {0, 12, 20, 9, 29, 15, 18};
  const int32_t computed[] = {0, 11, 4, 8, 28, 14, 10};
  for (int32_t slot = 1; slot < 7; ++slot) {
    const std::vector<TokenId> tokens = tokens_of(length[slot], slot);
    std::copy(tokens.begin(), tokens.end(), in.slots.row(in.slots.history, slot));
    in.slots.length[slot] = length[slot];
    in.slots.computed[slot] = computed[slot];
    in.slots.sampling[slot].total_tokens_max = 31;
    for (int32_t i = 0; i < 3; ++i) in.slots.row(in.slots.drafts, slot)[i] = 70 + 3 * slot + i;
  }
  in.slots.draft_count[1] = 1;
  in.slots.draft_count[4] = 3;
  in.slots.draft_count[5] = 2;
  in.slots.finished[5] = 1;
  in.plan.rows = {{3, RowKind::kDecode, 1, true},   {1, RowKind::kVerify, 4, true},
                  {4, RowKind::kVerify, 4, true},   {5, RowKind::kVerify, 3, true},
                  {2, RowKind::kPrefill, 7, false}, {6, RowKind::kPrefill, 10, true}};
  in.shape = {6, 4, 29, 4, 10, 40, 13};
  return in;
}

// The decode and verify rows alone, padded to a larger shape.
AdvanceInputs padded_inputs() {
  AdvanceInputs in = advance_inputs();
  in.plan.rows.resize(4);
  in.shape = {7, 7, 28, 4, 0, 40, 28};
  return in;
}

// Prompts that want their own logprobs, which a backend may learn when they are
// opened: slots 2 and 3 are opened by the plan.
AdvanceInputs opened_inputs() {
  AdvanceInputs in;
  SamplingParams sampling;
  sampling.prompt_logprobs = true;
  sampling.max_tokens = 5;
  in.plan.open = {open_of(2, 12, 12, 4, sampling), open_of(3, 9, 9, 0, sampling)};
  in.plan.rows = {{2, RowKind::kPrefill, 5, false}, {3, RowKind::kPrefill, 12, true}};
  in.shape = {2, 0, 17, 0, 12, 40, 17};
  return in;
}

// The slots as the plan's edits leave them.
SlotState opened(const AdvanceInputs& in) {
  SlotState s = in.slots;
  for (const OpenSlot& open : in.plan.open) {
    std::copy(open.tokens->begin(), open.tokens->end(), s.row(s.history, open.slot));
    s.length[open.slot] = static_cast<int32_t>(open.tokens->size());
    s.computed[open.slot] = open.computed_tokens;
    s.sampling[open.slot].prompt_logprobs = open.sampling->prompt_logprobs ? 1 : 0;
  }
  return s;
}

OpCase advance_case(const char* name, AdvanceInputs (*make)()) {
  const auto prepare = [=](Ops& ops) {
    const AdvanceInputs in = make();
    const SlotTable table = place_slots(ops, in.slots);
    ops.edit_slots(table, in.plan);
    const BatchView batch = reserve_batch(ops, in.shape);
    return PreparedOp{[=, &ops]() -> std::vector<OpOutput> {
      BatchView view = batch;
      ops.advance(table, in.plan, view);
      return batch_outputs(view);
    }};
  };
  const auto expected = [=](const GoldenVectors&) -> ExpectedValues {
    const AdvanceInputs in = make();
    return batch_values(resolved(opened(in), in.plan, in.shape));
  };
  return {"advance", name, Numerics::kNative, Precision::kExact, prepare, expected};
}

enum class After { kNextTokens, kLastAccepted, kPropose, kApply };

// What sampling left: each row's accepted and new tokens, and the slots as they are after it.
struct Sampled {
  AdvanceInputs in = advance_inputs();
  std::vector<int32_t> accepted = {1, 2, 1, 0, 7, 8};
  std::vector<int32_t> fresh = {1, 2, 1, 0, 0, 1};
  std::vector<int32_t> new_tokens;  // [6, 4]
  std::vector<uint8_t> finish = {0, 0, 2, 0, 0, 0};
  HostMatrix logits = random_matrix(6, 128, 40, 5.0F);

  Sampled() {
    for (int32_t i = 0; i < 24; ++i)
      new_tokens.push_back(i % 4 < fresh[i / 4] ? (i * 13) % 100 : 0);
  }
  SlotState after() const {
    SlotState s = in.slots;
    for (int32_t r = 0; r < 6; ++r) {
      const int32_t slot = in.plan.rows[r].slot;
      std::copy_n(new_tokens.begin() + 4 * r, fresh[r], s.row(s.history, slot) + s.length[slot]);
      s.length[slot] += fresh[r];
      s.computed[slot] += accepted[r];
      if (fresh[r] > 0) s.finished[slot] = finish[r];
      s.draft_count[slot] = 0;
    }
    return s;
  }
  // The drafter's argmax as draft 1 of each row that goes on, beside the draft 0 that is there.
  void propose(SlotState& s, std::vector<int32_t>& drafts, std::vector<int32_t>& counts) const {
    for (int32_t r = 0; r < 6; ++r) {
      const int32_t slot = in.plan.rows[r].slot;
      if (s.finished[slot] != 0 || s.length[slot] != s.computed[slot] + 1) continue;
      const auto row = logits.values.begin() + 128 * r;
      const auto best = static_cast<int32_t>(std::max_element(row, row + 100) - row);
      s.row(s.drafts, slot)[1] = drafts[3 * r + 1] = best;
      s.draft_count[slot] = counts[r] = 2;
    }
  }
};

struct Placed {
  SlotTable table;
  BatchView batch;
  SampleOutput out;
  Tensor logits;
};

Placed place_sampled(Ops& ops, const Sampled& s, After what) {
  Placed p;
  p.table = place_slots(ops, what == After::kApply ? s.in.slots : s.after());
  p.batch = place_batch(ops, resolved(s.in.slots, s.in.plan, s.in.shape), p.table);
  p.out = reserve_sample_output(ops, s.in.shape, 3);
  p.out.accepted = place_ints(ops, s.accepted);
  p.out.new_count = place_ints(ops, s.fresh);
  p.out.new_tokens = ops.place(host_tensor(s.new_tokens, DType::kI32, {6, 4}), DType::kI32).value();
  p.out.finish = place_bytes(ops, s.finish);
  if (what == After::kApply) {
    p.out.draft_count = place_ints(ops, {0, 2, 0, 0, 0, 1});
    std::vector<int32_t> drafts(18);
    for (int32_t i = 0; i < 18; ++i) drafts[i] = 40 + i;
    p.out.drafts = ops.place(host_tensor(drafts, DType::kI32, {6, 3}), DType::kI32).value();
  }
  const HostTensor host = host_tensor(s.logits.values, DType::kF32, {6, 128});
  p.logits = ops.place(host, DType::kF32).value();
  return p;
}

std::vector<OpOutput> run_after(Ops& ops, Placed p, After what) {
  switch (what) {
    case After::kNextTokens: return {{"next", {ops.next_tokens(p.table, p.batch), {}, {}}, true}};
    case After::kLastAccepted: return {{"last", {ops.last_accepted(p.batch, p.out), {}, {}}, true}};
    case After::kPropose: ops.propose(p.table, p.batch, p.logits, 1, p.out); break;
    case After::kApply: ops.apply_samples(p.table, p.batch, p.out); break;
  }
  std::vector<OpOutput> outputs = slot_outputs(p.table);
  outputs.push_back({"draft counts", {p.out.draft_count, {}, {}}, true});
  outputs.push_back({"drafts", {p.out.drafts, {}, {}}, true});
  return outputs;
}

ExpectedValues expected_after(After what) {
  const Sampled s;
  const HostBatch b = resolved(s.in.slots, s.in.plan, s.in.shape);
  SlotState slots = s.after();
  std::vector<int32_t> drafts(18, 0);
  std::vector<int32_t> counts(6, 0);
  std::vector<double> one;
  switch (what) {
    case After::kNextTokens:
      for (int32_t t = 0; t < s.in.shape.tokens; ++t) {
        const int32_t slot = b.row_slot[b.token_row[t]];
        const int32_t next = b.positions[t] + 1;
        const bool known = b.token_valid[t] != 0 && next < slots.length[slot];
        one.push_back(known ? slots.row(slots.history, slot)[next] : 0);
      }
      return {one};
    case After::kLastAccepted:
      for (int32_t r = 0; r < 6; ++r)
        one.push_back(b.row_first[r] + std::max(s.accepted[r], 1) - 1);
      return {one};
    case After::kPropose: s.propose(slots, drafts, counts); break;
    case After::kApply:
      counts = {0, 2, 0, 0, 0, 1};
      for (int32_t i = 0; i < 18; ++i) drafts[i] = 40 + i;
      for (int32_t r = 0; r < 6; ++r) {
        const int32_t slot = s.in.plan.rows[r].slot;
        slots.draft_count[slot] = counts[r];
        std::copy_n(drafts.begin() + 3 * r, counts[r], slots.row(slots.drafts, slot));
      }
      break;
  }
  ExpectedValues values = slot_values(slots);
  values.emplace_back(counts.begin(), counts.end());
  values.emplace_back(drafts.begin(), drafts.end());
  return values;
}

OpCase after_case(const char* op, After what) {
  const auto prepare = [=](Ops& ops) {
    const Placed placed = place_sampled(ops, Sampled(), what);
    return PreparedOp{[=, &ops] { return run_after(ops, placed, what); }};
  };
  return {op,
          "rows of every kind",
          Numerics::kNative,
          Precision::kExact,
          prepare,
          [=](const GoldenVectors&) { return expected_after(what); }};
}

}  // namespace

std::vector<OpCase> frame_cases() {
  return {edit_slots_case("close, open, append", edits),
          edit_slots_case("close, append", small_edits),
          advance_case("rows of every kind", advance_inputs),
          advance_case("padded", padded_inputs),
          advance_case("prompt logprobs", opened_inputs),
          after_case("next_tokens", After::kNextTokens),
          after_case("last_accepted", After::kLastAccepted),
          after_case("propose", After::kPropose),
          after_case("apply_samples", After::kApply)};
}

}  // namespace fathom::testing
