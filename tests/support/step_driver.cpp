#include "support/step_driver.h"

#include <algorithm>

namespace fathom::testing {
StepDriver::StepDriver(Ops& ops, Model& model, const DriverLimits& limits, const Groups& groups)
    : ops_(ops), model_(model), limits_(limits), groups_(groups) {
  const KvLayout layout = model.kv_layout();
  SlotLimits& s = table_.limits;
  s.slots = limits.slots;
  s.tokens_max = limits.tokens_max;
  s.blocks_max = (limits.tokens_max + limits.drafts_max) / layout.block_tokens + 1;
  s.cache_groups = static_cast<int32_t>(layout.groups.size());
  s.drafts_max = limits.drafts_max;
  s.vocab_padded = model.info().vocab;
  s.vocab = limits.vocab > 0 ? limits.vocab : s.vocab_padded;
  s.hidden = model.info().hidden;
  table_.history = reserve(DType::kI32, {s.slots, s.tokens_max + s.drafts_max + 1});
  table_.length = reserve(DType::kI32, {s.slots});
  table_.computed = reserve(DType::kI32, {s.slots});
  table_.finished = reserve(DType::kU8, {s.slots});
  table_.block_table = reserve(DType::kI32, {s.cache_groups, s.slots, s.blocks_max});
  table_.drafts = reserve(DType::kI32, {s.slots, std::max(s.drafts_max, 1)});
  table_.draft_count = reserve(DType::kI32, {s.slots});
  table_.sampling = reserve(DType::kU8, {s.slots, sizeof(SlotSampling)});
  table_.bias_ids = reserve(DType::kI32, {s.slots, kLogitBiasMax});
  table_.bias_values = reserve(DType::kF32, {s.slots, kLogitBiasMax});
  for (size_t g = 0; g < layout.groups.size(); ++g) {
    for (int32_t l = 0; l < layout.groups[g].layers; ++l) {
      caches_.push_back({reserve(layout.groups[g].dtype, {limits.blocks, layout.block_tokens,
                                                          layout.groups[g].entry_elements}),
                         static_cast<int32_t>(g), layout.block_tokens});
    }
  }
  // Blocks are handed out in a scattered order: nothing may rely on their being neighbours.
  for (int32_t i = 1; i < limits.blocks; ++i) free_blocks_.push_back(i);
  std::stable_sort(free_blocks_.begin(), free_blocks_.end(),
                   [](BlockId a, BlockId b) { return a % 7 < b % 7; });
  for (int32_t i = limits.slots - 1; i > 0; --i) free_slots_.push_back(i);
}

std::vector<std::vector<float>> StepDriver::copy_logits(const Tensor& logits) const {
  std::vector<std::vector<float>> rows;
  for (int64_t i = 0; keep_logits_ && i < logits.shape[0]; ++i) {
    const float* p = logits.as<float>() + i * logits.stride[0];
    rows.emplace_back(p, p + logits.shape[1]);
  }
  return rows;
}

Tensor StepDriver::reserve(DType dtype, std::initializer_list<int64_t> shape) {
  return ops_.reserve(dtype, shape).value();
}

SlotId StepDriver::open(StepPlan& plan, const std::vector<TokenId>& tokens,
                        const SamplingParams& sampling) {
  FATHOM_CHECK(!free_slots_.empty(), "the test opens more slots than there are");
  const SlotId slot = free_slots_.back();
  free_slots_.pop_back();
  Open& open = open_[slot];
  open.prompt_logprobs = sampling.prompt_logprobs;
  open.logprobs = sampling.logprobs;
  const int32_t total = static_cast<int32_t>(tokens.size()) + sampling.max_tokens;
  const int32_t blocks = (total + limits_.drafts_max) / caches_.front().block_tokens + 1;
  for (int32_t i = 0; i < std::min(blocks, table_.limits.blocks_max); ++i) {
    FATHOM_CHECK(!free_blocks_.empty(), "the test uses more blocks than there are");
    open.blocks.push_back(free_blocks_.back());
    free_blocks_.pop_back();
  }
  OpenSlot delta;
  delta.slot = slot;
  delta.tokens = std::make_shared<const std::vector<TokenId>>(tokens);
  delta.prompt_tokens = static_cast<int32_t>(tokens.size());
  delta.sampling = std::make_shared<const SamplingParams>(sampling);
  plan.open.push_back(delta);
  for (int32_t g = 0; g < table_.limits.cache_groups; ++g) {
    plan.append.push_back({slot, g, 0, open.blocks});
  }
  return slot;
}

void StepDriver::close(StepPlan& plan, SlotId slot) {
  Open& open = open_.at(slot);
  free_blocks_.insert(free_blocks_.end(), open.blocks.begin(), open.blocks.end());
  free_slots_.push_back(slot);
  open_.erase(slot);
  plan.close.push_back(slot);
}

BatchView StepDriver::make_batch(const StepPlan& plan) {
  BatchView batch;
  StepShape& shape = batch.shape;
  shape.rows = static_cast<int32_t>(plan.rows.size());
  shape.tokens = plan.token_count();
  for (const PlanRow& row : plan.rows) {
    const bool prefill = row.kind == RowKind::kPrefill;
    if (!prefill) {
      ++shape.decode_rows;
      shape.query_tokens_max = std::max(shape.query_tokens_max, row.tokens);
    } else {
      shape.prefill_tokens_max = std::max(shape.prefill_tokens_max, row.tokens);
    }
    const bool all = !prefill || open_.at(row.slot).prompt_logprobs;
    shape.sample_rows += all ? row.tokens : (row.sample ? 1 : 0);
  }
  shape.context_tokens_max = limits_.tokens_max;
  Arena& arena = ops_.arena();
  const auto ints = [&](int64_t n) { return arena.take(DType::kI32, {n}); };
  batch.row_slot = ints(shape.rows);
  batch.row_kind = ints(shape.rows);
  batch.row_first = ints(shape.rows + 1);
  batch.row_query = ints(shape.rows);
  batch.row_context = ints(shape.rows);
  batch.token_ids = ints(shape.tokens);
  batch.token_row = ints(shape.tokens);
  batch.positions = ints(shape.tokens);
  batch.token_valid = arena.take(DType::kU8, {shape.tokens});
  batch.sample_tokens = ints(shape.sample_rows);
  batch.sample_row = ints(shape.sample_rows);
  return batch;
}

SampleOutput StepDriver::make_output(const StepShape& shape) {
  Arena& arena = ops_.arena();
  const auto ints = [&](int64_t n) { return arena.take(DType::kI32, {n}); };
  SampleOutput out;
  out.accepted = ints(shape.rows);
  out.new_count = ints(shape.rows);
  out.new_tokens = arena.take(DType::kI32, {shape.rows, limits_.drafts_max + 1});
  out.drafted = ints(shape.rows);
  out.finish = arena.take(DType::kU8, {shape.rows});
  out.draft_count = ints(shape.rows);
  out.drafts = arena.take(DType::kI32, {shape.rows, std::max(limits_.drafts_max, 1)});
  out.logprob = arena.take(DType::kF32, {shape.sample_rows});
  out.top_ids = arena.take(DType::kI32, {shape.sample_rows, kLogprobsMax});
  out.top_logprobs = arena.take(DType::kF32, {shape.sample_rows, kLogprobsMax});
  return out;
}

void StepDriver::receive(Hidden& hidden, const BatchView& batch) {
  hidden.residual = ops_.arena().take(ops_.act_dtype(), {batch.shape.tokens, model_.info().hidden});
  FATHOM_CHECK(groups_.pp->receive(hidden.residual, groups_.pp->rank() - 1).is_ok(), "lost stage");
}

void StepDriver::draft(const BatchView& batch, const Act& normed, SampleOutput& out) {
  const Tensor next = ops_.next_tokens(table_, batch);
  const Tensor last = ops_.last_accepted(batch, out);
  const Tensor logits = model_.draft(ops_, batch, caches_, normed, next, last);
  draft_logits_ = copy_logits(logits);
  ops_.propose(table_, batch, logits, 0, out);
}

StepResult StepDriver::run(const StepPlan& plan) {
  ArenaScope scope(ops_.arena());
  ops_.edit_slots(table_, plan);
  BatchView batch = make_batch(plan);
  ops_.advance(table_, plan, batch);
  SampleOutput out = make_output(batch.shape);
  const int32_t stage = Groups::rank_of(groups_.pp);
  const int32_t stages = Groups::size_of(groups_.pp);
  Hidden hidden;
  if (stage == 0)
    hidden = model_.embed(ops_, batch);
  else
    receive(hidden, batch);
  model_.layers(ops_, batch, caches_, hidden);
  if (stage + 1 < stages) {
    FATHOM_CHECK(groups_.pp->send(hidden.residual, stage + 1).is_ok(), "lost stage");
  } else {
    const Act normed = model_.final_norm(ops_, hidden);
    const Tensor logits = model_.head(ops_, batch, normed);
    logits_ = copy_logits(logits);
    ops_.sample(table_, batch, logits, model_.info().eos, out);
    if (limits_.drafts_max > 0 && !by_hand_) draft(batch, normed, out);
  }
  if (stages > 1) {
    for (const Tensor* t : {&out.accepted, &out.new_count, &out.new_tokens, &out.drafted,
                            &out.draft_count, &out.drafts}) {
      const Tensor bits = Tensor::of(t->data, DType::kF32, {t->elements()});
      FATHOM_CHECK(groups_.pp->broadcast(bits, stages - 1).is_ok(), "lost stage");
    }
    Tensor finish = ops_.arena().take(DType::kF32, {batch.shape.rows});
    for (int32_t r = 0; r < batch.shape.rows; ++r) {
      finish.as<float>()[r] = out.finish.as<uint8_t>()[r];
    }
    FATHOM_CHECK(groups_.pp->broadcast(finish, stages - 1).is_ok(), "lost stage");
    for (int32_t r = 0; r < batch.shape.rows; ++r) {
      out.finish.as<uint8_t>()[r] = static_cast<uint8_t>(finish.as<float>()[r]);
    }
    if (stage + 1 < stages) ops_.apply_samples(table_, batch, out);
  }
  return collect(plan, batch, out);
}

StepResult StepDriver::collect(const StepPlan& plan, const BatchView& batch,
                               const SampleOutput& out) const {
  StepResult result;
  result.number = plan.number;
  int32_t sample = 0;
  for (int32_t r = 0; r < batch.shape.rows; ++r) {
    const PlanRow& row = plan.rows[r];
    const Open& open = open_.at(row.slot);
    RowResult one;
    one.slot = row.slot;
    one.accepted = out.accepted.as<int32_t>()[r];
    one.drafted = out.drafted.as<int32_t>()[r];
    one.finish = static_cast<FinishReason>(out.finish.as<uint8_t>()[r]);
    const int32_t fresh = out.new_count.as<int32_t>()[r];
    const int32_t* tokens = out.new_tokens.as<int32_t>() + r * out.new_tokens.stride[0];
    one.tokens.assign(tokens, tokens + fresh);
    const bool prefill = row.kind == RowKind::kPrefill;
    const bool all = prefill && open.prompt_logprobs;
    const auto entry = [&](int32_t s) {
      TokenLogprobs logprobs;
      logprobs.chosen = out.logprob.as<float>()[s];
      for (int32_t i = 0; i < open.logprobs.value_or(0); ++i) {
        logprobs.top.emplace_back(out.top_ids.as<int32_t>()[s * kLogprobsMax + i],
                                  out.top_logprobs.as<float>()[s * kLogprobsMax + i]);
      }
      return logprobs;
    };
    if (all) {
      for (int32_t i = 0; i < one.accepted - fresh; ++i) {
        one.prompt_logprobs.push_back(entry(sample + i));
      }
    }
    const int32_t first = all ? sample + one.accepted - fresh : sample;
    for (int32_t i = 0; open.logprobs && i < fresh; ++i) one.logprobs.push_back(entry(first + i));
    sample += !prefill || all ? row.tokens : (row.sample ? 1 : 0);
    result.rows.push_back(std::move(one));
  }
  return result;
}

StepDriver::Generated StepDriver::generate(const std::vector<TokenId>& prompt,
                                           const SamplingParams& sampling, int32_t chunk) {
  Generated done;
  StepPlan plan;
  const SlotId slot = open(plan, prompt, sampling);
  const auto total = static_cast<int32_t>(prompt.size());
  for (int32_t at = 0; at < total;) {
    const int32_t n = chunk > 0 ? std::min(chunk, total - at) : total;
    plan.rows = {{slot, RowKind::kPrefill, n, at + n == total}};
    const StepResult result = run(plan);
    if (sampling.prompt_logprobs) {
      done.prompt_logits.insert(done.prompt_logits.end(), logits_.begin(), logits_.end());
    }
    at += n;
    plan = StepPlan{};
    if (at < total) continue;
    done.tokens.assign(result.rows[0].tokens.begin(), result.rows[0].tokens.end());
    done.logprobs = result.rows[0].logprobs;
    done.finish = result.rows[0].finish;
    if (!logits_.empty()) done.step_logits.push_back(logits_.back());
  }
  while (done.finish == FinishReason::kNone) {
    const bool verify = limits_.drafts_max > 0;
    plan.rows = {{slot, verify ? RowKind::kVerify : RowKind::kDecode,
                  verify ? limits_.drafts_max + 1 : 1, true}};
    const RowResult row = run(plan).rows[0];
    ++done.steps;
    done.drafted += row.drafted;
    done.accepted_drafts += static_cast<int32_t>(row.tokens.size()) - 1;
    for (size_t i = 0; i < std::min(row.tokens.size(), logits_.size()); ++i) {
      done.step_logits.push_back(logits_[i]);
    }
    done.tokens.insert(done.tokens.end(), row.tokens.begin(), row.tokens.end());
    done.logprobs.insert(done.logprobs.end(), row.logprobs.begin(), row.logprobs.end());
    done.finish = row.finish;
  }
  StepPlan last;
  close(last, slot);
  run(last);
  return done;
}

void StepDriver::set_drafts(SlotId slot, const std::vector<TokenId>& drafts) {
  for (size_t i = 0; i < drafts.size(); ++i) {
    table_.drafts.as<int32_t>()[slot * table_.drafts.stride[0] + static_cast<int64_t>(i)] =
        drafts[i];
  }
  table_.draft_count.as<int32_t>()[slot] = static_cast<int32_t>(drafts.size());
}

}  // namespace fathom::testing
