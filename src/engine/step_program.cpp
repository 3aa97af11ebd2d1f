// The order of a step, alone and across pipeline stages.
#include "engine/step_program.h"

#include <functional>
#include <utility>

#include "engine/capture_shapes.h"
#include "engine/step_results.h"

namespace fathom {

StepProgram::StepProgram(Ops& ops, Model& model, const Groups& groups,
                         const StepProgramOptions& options)
    : ops_(ops),
      model_(model),
      groups_(groups),
      options_(options),
      stage_(Groups::rank_of(groups.pp)),
      last_stage_(Groups::size_of(groups.pp) - 1),
      facts_(static_cast<size_t>(options.slots.slots)) {}

Result<std::unique_ptr<StepProgram>> StepProgram::make(Ops& ops, Model& model, const Groups& groups,
                                                       const StepProgramOptions& options) {
  std::unique_ptr<StepProgram> program(new StepProgram(ops, model, groups, options));
  FATHOM_ASSIGN(program->slots_, make_slot_table(ops, options.slots));
  const KvLayout layout = model.kv_layout();
  const std::vector<int32_t> cache_group = cache_groups_of(layout, options.cache);
  FATHOM_ASSIGN(program->kv_, KvMemory::make(ops, layout, options.blocks, cache_group));
  // A frame for each step that later stages may be busy with, one to fill, and one to read.
  const int32_t frames = program->last_stage_ - program->stage_ + 2;
  for (int32_t i = 0; i < frames; ++i) {
    FATHOM_ASSIGN(BatchArrays arrays, BatchArrays::make(ops, options.step));
    FATHOM_ASSIGN(OutputArrays output,
                  OutputArrays::make(ops, options.step, options.slots.drafts_max));
    program->frames_.push_back(Frame{arrays, output, {}});
  }
  program->launched_.reserve(program->frames_.size() + 1);
  return program;
}

Status StepProgram::launch(const StepPlan& plan) {
  if (!samples()) FATHOM_RETURN_IF_ERROR(apply_before(plan));
  ops_.edit_slots(slots_, plan);
  apply_deltas(plan, facts_);

  Launched launched;
  launched.number = plan.number;
  launched.shape = step_shape(plan, facts_, options_.cache.block_tokens);
  if (pads()) launched.shape = padded_shape(launched.shape, options_.step, options_.slots);
  launched.frame = next_frame_;

  if (!plan.rows.empty()) {
    next_frame_ = (next_frame_ + 1) % frames_.size();
    Frame& frame = frames_[launched.frame];
    frame.reading.set(plan, facts_);
    count_prefill(plan, facts_);
    const BatchView batch = advance(plan, launched.shape, launched.frame);
    if (last_stage_ == 0) {
      const auto index = static_cast<int32_t>(launched.frame);
      const auto body = [&] { return forward(batch, frame); };
      FATHOM_RETURN_IF_ERROR(ops_.run_step(batch.shape, index, std::cref(body)));
    } else {
      FATHOM_RETURN_IF_ERROR(forward(batch, frame));  // stages meet in it: not a captured unit
    }
    FATHOM_RETURN_IF_ERROR(ops_.health());
  } else if (!samples()) {
    return Status::ok();
  }
  launched.mark = ops_.mark();
  launched_.push_back(launched);
  FATHOM_CHECK(launched_.size() <= frames_.size(), "more steps in flight than frames");
  return Status::ok();
}

BatchView StepProgram::advance(const StepPlan& plan, const StepShape& shape, size_t frame) {
  BatchView batch = frames_[frame].arrays.view(shape, slots_);
  ops_.advance(slots_, plan, batch);
  return batch;
}

Status StepProgram::warm() {
  if (!pads()) return Status::ok();
  const StepPlan nothing;
  constexpr int32_t kMoreTokens = 8;
  for (int32_t tokens = 1; tokens <= options_.step.tokens_max; tokens *= kMoreTokens) {
    const BatchView batch = advance(nothing, prefill_warm_shape(tokens, options_.slots), 0);
    FATHOM_RETURN_IF_ERROR(forward(batch, frames_[0]));
  }
  for (const int32_t rows : row_buckets(options_.step.rows_max)) {
    const StepShape shape = captured_shape(rows, options_.step, options_.slots);
    for (size_t frame = 0; frame < frames_.size(); ++frame) {
      const BatchView batch = advance(nothing, shape, frame);
      FATHOM_RETURN_IF_ERROR(ops_.capture(batch.shape, static_cast<int32_t>(frame),
                                          [&] { return forward(batch, frames_[frame]); }));
    }
  }
  return ops_.health();
}

Status StepProgram::forward(const BatchView& batch, Frame& frame) {
  ArenaScope step(ops_.arena());
  Hidden hidden;
  if (stage_ == 0) {
    hidden = model_.embed(ops_, batch);
  } else {
    // [tokens, hidden]: the stream as the stage before left it, nothing pending.
    hidden.residual =
        ops_.arena().take(ops_.act_dtype(), {batch.shape.tokens, model_.info().hidden});
    FATHOM_RETURN_IF_ERROR(groups_.pp->receive(hidden.residual, stage_ - 1));
  }
  model_.layers(ops_, batch, kv_.views(), hidden);
  if (samples()) return sample(batch, hidden, frame);
  ops_.reduce_add(hidden.pending, hidden.residual, groups_.tp);
  // A send waits for its receiver. The last stage hands out step n's samples before it takes step
  // n + 1: so this stage takes them first, as many steps behind as there are stages between.
  FATHOM_RETURN_IF_ERROR(apply_until(static_cast<size_t>(last_stage_ - stage_ - 1)));
  return groups_.pp->send(hidden.residual, stage_ + 1);
}

Status StepProgram::sample(const BatchView& batch, Hidden& hidden, Frame& frame) {
  const bool drafts = options_.slots.drafts_max > 0;
  Act normed;
  if (drafts || batch.shape.sample_rows > 0) normed = model_.final_norm(ops_, hidden);
  Tensor logits = Tensor::of(nullptr, DType::kF32, {0, options_.slots.vocab_padded});
  if (batch.shape.sample_rows > 0) logits = model_.head(ops_, batch, normed);
  SampleOutput out = frame.output.view(batch.shape);
  ops_.sample(slots_, batch, logits, model_.info().eos, out);
  if (drafts) draft(batch, normed, out);
  // Nearest stage first: an earlier one may be waiting for it to take hidden states.
  for (int32_t stage = last_stage_ - 1; stage >= 0; --stage) {
    FATHOM_RETURN_IF_ERROR(groups_.pp->send(frame.output.applied(), stage));
  }
  return Status::ok();
}

void StepProgram::draft(const BatchView& batch, const Act& normed, SampleOutput& out) {
  const Tensor next = ops_.next_tokens(slots_, batch);
  const Tensor last = ops_.last_accepted(batch, out);
  const Tensor logits = model_.draft(ops_, batch, kv_.views(), normed, next, last);
  ops_.propose(slots_, batch, logits, 0, out);
}

Status StepProgram::apply_until(size_t left) {
  while (launched_.size() > left) {
    const Launched& oldest = launched_.front();
    Frame& frame = frames_[oldest.frame];
    FATHOM_RETURN_IF_ERROR(groups_.pp->receive(frame.output.applied(), last_stage_));
    const BatchView batch = frame.arrays.view(oldest.shape, slots_);
    ops_.apply_samples(slots_, batch, frame.output.view(oldest.shape));
    launched_.erase(launched_.begin());
  }
  return Status::ok();
}

// Keeps this stage's slot table equal to the last stage's wherever `plan` looks at it; elsewhere
// this stage runs ahead.
Status StepProgram::apply_before(const StepPlan& plan) {
  size_t left = launched_.size();
  for (size_t i = 0; i < launched_.size(); ++i) {
    if (touches_rows_of(plan, frames_[launched_[i].frame].reading.slots))
      left = launched_.size() - i - 1;
  }
  return apply_until(left);
}

Status StepProgram::settle() { return samples() ? Status::ok() : apply_until(0); }

Result<StepResult> StepProgram::collect() {
  FATHOM_CHECK(samples() && !launched_.empty(), "collect without a launched step");
  FATHOM_RETURN_IF_ERROR(ops_.wait(launched_.front().mark));
  const Launched oldest = launched_.front();
  launched_.erase(launched_.begin());
  StepResult result;
  result.number = oldest.number;
  if (oldest.shape.rows > 0) {
    const Frame& frame = frames_[oldest.frame];
    result.rows = read_results(frame.reading, frame.output.view(oldest.shape));
  }
  return result;
}

}  // namespace fathom
