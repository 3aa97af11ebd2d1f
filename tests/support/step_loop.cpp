#include "support/step_loop.h"

#include <algorithm>
#include <utility>

namespace fathom::testing {
namespace {

std::unique_ptr<StepProgram> make_program(Ops& ops, Model& model, const StepLoopOptions& options) {
  StepProgramOptions program;
  program.cache = model.kv_layout();
  program.blocks = options.blocks;
  program.pad_always = options.pad_always;
  SlotLimits& slots = program.slots;
  slots.slots = options.rows + 1;
  slots.tokens_max = options.model_len;
  slots.blocks_max = options.model_len / program.cache.block_tokens + 1;
  slots.cache_groups = static_cast<int32_t>(program.cache.groups.size());
  slots.drafts_max = options.drafts;
  slots.vocab = slots.vocab_padded = model.info().vocab;
  slots.hidden = model.info().hidden;
  slots.penalty_slots = options.rows;
  program.step = {options.rows, options.tokens_max, options.tokens_max};
  std::unique_ptr<StepProgram> made = std::move(StepProgram::make(ops, model, {}, program)).value();
  FATHOM_CHECK(made->warm().is_ok(), "warm steps");
  FATHOM_CHECK(ops.seal().is_ok(), "seal");
  return made;
}

SchedulerOptions scheduler_options(const Model& model, const StepLoopOptions& options) {
  SchedulerOptions s;
  s.max_model_len = options.model_len;
  s.max_num_seqs = options.rows;
  s.max_num_batched_tokens = options.tokens_max;
  s.speculative_tokens = options.drafts;
  s.blocks.assign(model.kv_layout().groups.size(), options.blocks);
  s.answer_margin_tokens = options.answer_margin_tokens;
  s.deterministic = options.deterministic;
  return s;
}

}  // namespace

StepLoop::StepLoop(Ops& ops, Model& model, const StepLoopOptions& options)
    : program_(make_program(ops, model, options)),
      scheduler_(scheduler_options(model, options), model.kv_layout(),
                 keyed_block_hash(KeyedHasher::random_key())) {}

void StepLoop::submit(RequestId id, const std::vector<TokenId>& prompt,
                      const SamplingParams& sampling) {
  Request request;
  request.id = id;
  request.prompt = prompt;
  request.sampling = sampling;
  const Status status = scheduler_.admit(std::move(request), now_us_);
  FATHOM_CHECK(status.is_ok(), "the test submits a request that is refused");
}

bool StepLoop::turn() {
  now_us_ += 1000;
  while (std::optional<StepPlan> plan = scheduler_.plan(now_us_)) {
    decode_steps_ += !plan->rows.empty() && plan->rows.back().kind != RowKind::kPrefill ? 1 : 0;
    FATHOM_CHECK(program_->launch(*plan).is_ok(), "a step failed");
  }
  take(scheduler_.take_events());
  in_flight_max_ = std::max(in_flight_max_, scheduler_.plans_in_flight());
  if (scheduler_.plans_in_flight() == 0) return !scheduler_.idle();
  take(scheduler_.commit(program_->collect().value(), now_us_));
  return true;
}

void StepLoop::take(const CommitOutput& output) {
  for (const RequestEvent& event : output.events) {
    StepAnswer& answer = answers_[event.id];
    if (const auto* tokens = std::get_if<TokensEvent>(&event.event)) {
      answer.tokens.insert(answer.tokens.end(), tokens->tokens.begin(), tokens->tokens.end());
      answer.logprobs.insert(answer.logprobs.end(), tokens->logprobs.begin(),
                             tokens->logprobs.end());
      answer.prompt_logprobs.insert(answer.prompt_logprobs.end(), tokens->prompt_logprobs.begin(),
                                    tokens->prompt_logprobs.end());
    }
    if (const auto* finished = std::get_if<FinishedEvent>(&event.event)) {
      answer.reason = finished->reason;
    }
  }
}

}  // namespace fathom::testing
