// Sampling: every parameter in one batch, drafts that are right and wrong, prompts in the middle
// and at their end. Ids are exact; logprobs are float32.
#include <algorithm>

#include "ops/op_builders.h"
#include "ops/op_inputs.h"
#include "ops/op_loops.h"
#include "ops/sample_loops.h"
#include "ops/slot_state.h"

namespace fathom::testing {
namespace {

struct Inputs {
  explicit Inputs(const SlotLimits& limits) : slots(limits) {}
  SlotState slots;
  StepPlan plan;
  HostBatch batch;
  std::vector<float> logits;
  std::vector<TokenId> eos;
  HostMatrix x;       // where logits come from Ops::logits: of each sample row,
  StoredWeight head;  // and [vocab_padded, columns]
};

SlotLimits limits_of(int32_t slots, int32_t vocab, int32_t drafts_max) {
  SlotLimits limits;
  limits.slots = slots;
  limits.tokens_max = 64;
  limits.blocks_max = 2;
  limits.drafts_max = drafts_max;
  limits.vocab = vocab;
  limits.vocab_padded = (vocab + 63) / 64 * 64;
  limits.penalty_slots = slots;
  return limits;
}

// A slot with `length` known tokens, of which `prompt` are the client's, and `computed` in the
// cache.
void fill_slot(SlotState& s, int32_t slot, int32_t length, int32_t prompt, int32_t computed) {
  const HashNumbers numbers(500 + static_cast<uint32_t>(slot));
  for (int32_t i = 0; i < length; ++i) {
    s.row(s.history, slot)[i] =
        static_cast<int32_t>((numbers[i] + 1.0F) * 0.5F * static_cast<float>(s.limits.vocab));
  }
  s.length[slot] = length;
  s.computed[slot] = computed;
  s.sampling[slot].prompt_tokens = prompt;
  s.sampling[slot].total_tokens_max = s.limits.tokens_max;
  s.sampling[slot].seed_low = 7919U * static_cast<uint32_t>(slot);
  s.sampling[slot].seed_high = static_cast<uint32_t>(slot);
}

// Random logits; padding columns are the largest, and must never be sampled. A step of
// `sample_rows` is padded with rows of one token.
void finish(Inputs& in, StepShape shape, int32_t sample_rows, uint32_t seed, int32_t padding = 0) {
  shape.rows = static_cast<int32_t>(in.plan.rows.size()) + padding;
  shape.tokens = in.plan.token_count() + padding;
  shape.sample_rows = sample_rows + padding;
  in.batch = resolved(in.slots, in.plan, shape);
  const SlotLimits& l = in.slots.limits;
  in.logits = random_matrix(in.batch.shape.sample_rows, l.vocab_padded, seed, 8.0F).values;
  for (size_t i = 0; i < in.logits.size(); ++i) {
    const auto column = static_cast<int32_t>(i % static_cast<size_t>(l.vocab_padded));
    if (column >= l.vocab) in.logits[i] = 9.0F;
  }
}

float& logit(Inputs& in, int32_t sample_row, TokenId id) {
  return in.logits[int64_t{sample_row} * in.slots.limits.vocab_padded + id];
}

// One decode row per parameter; equal largest values go to the lowest id.
Inputs parameter_inputs(int32_t vocab) {
  constexpr int32_t kRows = 14;
  Inputs in(limits_of(kRows + 1, vocab, 0));
  SlotState& s = in.slots;
  for (int32_t slot = 1; slot <= kRows; ++slot) {
    fill_slot(s, slot, 20 + slot, 12, 19 + slot);
    s.sampling[slot].temperature = slot <= 2 ? 0.0F : 0.3F + 0.1F * static_cast<float>(slot);
    in.plan.rows.push_back({kRows + 1 - slot, RowKind::kDecode, 1, true});
  }
  s.sampling[2].logprobs = 0;
  s.sampling[4].top_k = 3;
  s.sampling[5].top_p = 0.7F;
  s.sampling[6].min_p = 0.2F;
  s.sampling[7].top_k = 50;
  s.sampling[7].top_p = 0.9F;
  s.sampling[7].min_p = 0.05F;
  s.sampling[7].logprobs = 5;
  s.sampling[8].repetition_penalty = 1.3F;
  s.sampling[9].presence_penalty = 1.5F;
  s.sampling[9].frequency_penalty = 0.8F;
  for (const int32_t slot : {8, 9, 10}) s.sampling[slot].uses_penalties = 1;
  s.sampling[10] = s.sampling[9];
  s.sampling[10].repetition_penalty = 0.8F;
  s.sampling[10].temperature = 0.0F;
  s.sampling[10].logprobs = 20;
  s.sampling[11].bias_count = 3;
  const int32_t biased[] = {vocab - 1, 3, vocab - 1};  // one id twice
  std::copy_n(biased, 3, s.row(s.bias_ids, 11));
  std::fill_n(s.row(s.bias_values, 11), 3, 4.5F);
  s.sampling[12].min_total_tokens = 60;  // eos and a stop id would win
  s.sampling[12].stop_id_count = 1;
  s.sampling[12].stop_ids[0] = 9;
  s.sampling[12].temperature = 0.0F;
  s.sampling[13].total_tokens_max = 34;  // ends here
  s.sampling[14].temperature = 1e-30F;
  in.eos = {5, 6};
  finish(in, {.decode_rows = kRows + 2, .query_tokens_max = 1, .context_tokens_max = 64}, kRows, 31,
         2);
  const auto row_of = [&](int32_t slot) { return kRows - slot; };
  for (const TokenId id : {5, 9}) logit(in, row_of(12), id) = 20.0F;
  for (const TokenId id : {70, 4, 40}) logit(in, row_of(1), id) = 15.0F;
  return in;
}

// Verify rows: slot 1 has both drafts right, 2 the first, 3 none, 4 ends by eos at its first, 5 by
// length at its second, 6 has no draft, 7 has finished before.
Inputs verify_inputs() {
  Inputs in(limits_of(8, 700, 2));
  SlotState& s = in.slots;
  for (int32_t slot = 1; slot <= 7; ++slot) {
    fill_slot(s, slot, 20 + slot, 12, 19 + slot);
    s.draft_count[slot] = slot == 6 ? 0 : 2;
    s.sampling[slot].temperature = slot % 2 == 0 ? 0.0F : 0.8F;
    s.sampling[slot].logprobs = slot == 3 ? -1 : slot;
    in.plan.rows.push_back({slot, RowKind::kVerify, 3, true});
    s.row(s.drafts, slot)[0] = s.row(s.drafts, slot)[1] = 699;
  }
  s.sampling[5].total_tokens_max = 27;
  s.finished[7] = 1;
  in.eos = {11};
  finish(in, {.decode_rows = 7, .query_tokens_max = 3, .context_tokens_max = 64}, 21, 33);
  logit(in, 9, 11) = 30.0F;
  // What would be sampled if every draft were right, position by position, gives right drafts.
  SlotState trial = s;
  for (int32_t round = 0; round < 2; ++round) {
    SlotState once = s;
    const SampledRows made = sample_by_definition(once, in.batch, in.logits, in.eos);
    for (int32_t r = 0; r < 5; ++r) {
      if (r == 2 || (r == 1 && round == 1)) continue;
      s.row(s.drafts, r + 1)[round] = made.new_tokens[3 * r + round];
    }
  }
  return in;
}

// Prompts: not at the end, at the end, with prompt logprobs, with them and at the end.
Inputs prompt_inputs() {
  Inputs in(limits_of(5, 333, 0));
  SlotState& s = in.slots;
  fill_slot(s, 1, 30, 30, 10);
  fill_slot(s, 2, 30, 30, 25);
  fill_slot(s, 3, 18, 18, 4);
  fill_slot(s, 4, 9, 9, 0);
  for (const int32_t slot : {3, 4}) {
    s.sampling[slot].prompt_logprobs = 1;
    s.sampling[slot].logprobs = 4;
    s.sampling[slot].temperature = 0.9F;
  }
  in.plan.rows = {{1, RowKind::kPrefill, 8, false},
                  {2, RowKind::kPrefill, 5, true},
                  {3, RowKind::kPrefill, 6, false},
                  {4, RowKind::kPrefill, 9, true}};
  in.eos = {2};
  finish(in, {.prefill_tokens_max = 9, .context_tokens_max = 64}, 16, 35);
  return in;
}

// Prompts of which none ends: there are no logits.
Inputs unfinished_inputs() {
  Inputs in(limits_of(3, 333, 0));
  fill_slot(in.slots, 1, 30, 30, 10);
  fill_slot(in.slots, 2, 40, 40, 0);
  in.plan.rows = {{1, RowKind::kPrefill, 8, false}, {2, RowKind::kPrefill, 16, false}};
  in.eos = {2};
  finish(in, {.prefill_tokens_max = 16, .context_tokens_max = 64}, 0, 39);
  return in;
}

// Logits that a product makes. Of four rows one asks for the likeliest token, one for that under
// penalties, some of these with logprobs, and two for a draw.
Inputs product_inputs() {
  constexpr int32_t kRows = 256;
  SlotLimits limits = limits_of(kRows + 1, 32900, 0);
  limits.vocab_padded = 33024;
  Inputs in(limits);
  for (int32_t slot = 1; slot <= kRows; ++slot) {
    fill_slot(in.slots, slot, 30, 12, 29);
    SlotSampling& c = in.slots.sampling[slot];
    c.temperature = slot % 4 < 2 ? 0.0F : 0.7F;
    c.logprobs = slot % 16 == 1 ? 3 : -1;
    if (slot % 4 == 1) {
      c.uses_penalties = 1;
      c.frequency_penalty = 4.0F;
    }
    in.plan.rows.push_back({slot, RowKind::kDecode, 1, true});
  }
  finish(in, {.decode_rows = kRows, .query_tokens_max = 1, .context_tokens_max = 64}, kRows, 41);
  in.x = rounded_to_bf16(random_matrix(kRows, 256, 43));
  in.head = random_bf16(limits.vocab_padded, 256, 44, 0.5F);
  const std::vector<double> made = product(in.x, in.head.matrix);
  in.logits.assign(made.begin(), made.end());
  return in;
}

struct Call {
  SlotTable table;
  BatchView batch;
  Act x;
  Weight head;
  Tensor logits;
  SampleOutput out;
};

std::vector<OpOutput> outputs_of(const Call& call) {
  std::vector<OpOutput> outputs = slot_outputs(call.table);
  const SampleOutput& o = call.out;
  const std::vector<OpOutput> more = {
      {"accepted", {o.accepted, {}, {}}, true},     {"new count", {o.new_count, {}, {}}, true},
      {"new tokens", {o.new_tokens, {}, {}}, true}, {"drafted", {o.drafted, {}, {}}, true},
      {"finish", {o.finish, {}, {}}, true},         {"draft count", {o.draft_count, {}, {}}, true}};
  outputs.insert(outputs.end(), more.begin(), more.end());
  if (call.batch.shape.sample_rows == 0) return outputs;
  const std::vector<OpOutput> sampled = {{"top ids", {o.top_ids, {}, {}}, true},
                                         {"logprob", {o.logprob, {}, {}}},
                                         {"top logprobs", {o.top_logprobs, {}, {}}}};
  outputs.insert(outputs.end(), sampled.begin(), sampled.end());
  return outputs;
}

OpCase sample_case(const std::string& name, const std::function<Inputs()>& make) {
  const auto inputs = Lazy<Inputs>(make);
  const auto prepare = [=](Ops& ops) {
    const Inputs& in = inputs.get();
    const auto call = std::make_shared<Call>();
    call->table = place_slots(ops, in.slots);
    call->batch = place_batch(ops, in.batch, call->table);
    const int64_t rows = in.batch.shape.sample_rows;
    call->logits = Tensor::of(nullptr, DType::kF32, {rows, in.slots.limits.vocab_padded});
    if (in.x.rows > 0) {
      call->x = plain_act(ops, in.x);
      call->head = ops.prepare_linear({in.head.stored}).value();
    } else if (rows > 0) {
      const HostTensor host =
          host_tensor(in.logits, DType::kF32, {rows, in.slots.limits.vocab_padded});
      call->logits = ops.place(host, DType::kF32).value();
    }
    call->out = reserve_sample_output(ops, in.batch.shape, in.slots.limits.drafts_max);
    const std::vector<TokenId> eos = in.eos;
    return PreparedOp{[=, &ops] {
      if (call->x.data.defined()) call->logits = ops.logits(call->x, call->head, nullptr);
      ops.sample(call->table, call->batch, call->logits, eos, call->out);
      return outputs_of(*call);
    }};
  };
  const auto expected = [=](const GoldenVectors&) -> ExpectedValues {
    const Inputs& in = inputs.get();
    SlotState slots = in.slots;
    const SampledRows made = sample_by_definition(slots, in.batch, in.logits, in.eos);
    ExpectedValues values = slot_values(slots);
    for (const auto* list : {&made.accepted, &made.new_count, &made.new_tokens, &made.drafted}) {
      values.emplace_back(list->begin(), list->end());
    }
    values.emplace_back(made.finish.begin(), made.finish.end());
    values.emplace_back(made.draft_count.begin(), made.draft_count.end());
    if (in.batch.shape.sample_rows == 0) return values;
    values.emplace_back(made.top_ids.begin(), made.top_ids.end());
    values.push_back(made.logprob);
    values.push_back(made.top_logprobs);
    return values;
  };
  return {"sample", name, Numerics::kNative, Precision::kLongSum, prepare, expected};
}

Inputs bench_inputs(int32_t rows, int32_t vocab, bool everything) {
  SlotLimits limits = limits_of(rows + 1, vocab, 0);
  limits.tokens_max = 1 << 14;  // room for every call of a benchmark
  Inputs in(limits);
  for (int32_t slot = 1; slot <= rows; ++slot) {
    fill_slot(in.slots, slot, 1000, 900, 999);
    SlotSampling& c = in.slots.sampling[slot];
    c.temperature = 0.8F;
    c.top_k = 50;
    c.top_p = 0.95F;
    if (everything) {
      c.logprobs = kLogprobsMax;
      c.uses_penalties = 1;
      c.repetition_penalty = 1.1F;
      c.presence_penalty = c.frequency_penalty = 0.2F;
    }
    in.plan.rows.push_back({slot, RowKind::kDecode, 1, true});
  }
  finish(in, {.decode_rows = rows, .query_tokens_max = 1, .context_tokens_max = 1000}, rows, 37);
  return in;
}

}  // namespace

OpCase sample_bench_case(int32_t rows, int32_t vocab, bool everything) {
  const std::string name = std::to_string(rows) + "x" + std::to_string(vocab) +
                           (everything ? ", penalties and 20 logprobs" : ", top-k and top-p");
  return sample_case(name, [=] { return bench_inputs(rows, vocab, everything); });
}

std::vector<OpCase> sample_cases() {
  return {sample_case("every parameter, 1000 tokens", [] { return parameter_inputs(1000); }),
          sample_case("every parameter, 129280 tokens", [] { return parameter_inputs(129280); }),
          sample_case("drafts", verify_inputs),
          sample_case("prompts", prompt_inputs),
          sample_case("prompts, none at its end", unfinished_inputs),
          sample_case("256x32900 behind their product", product_inputs),
          sample_bench_case(300, 1000, true)};  // more rows than a GPU has SMs
}

}  // namespace fathom::testing
