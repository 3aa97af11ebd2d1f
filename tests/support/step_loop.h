// A scheduler and a step program on one thread, two plans in flight, with no engine process: what
// tests of steps on any backend drive. Owned and called by the test's thread.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "engine/step_program.h"
#include "fathom/model.h"
#include "fathom/request.h"
#include "sched/scheduler.h"

namespace fathom::testing {

struct StepLoopOptions {
  int32_t rows = 8;         // sequences at a time, and rows of a step
  int32_t tokens_max = 64;  // of a step
  int32_t model_len = 256;
  int32_t drafts = 0;
  int32_t blocks = 64;  // of each cache group, block 0 counted
  bool pad_always = false;
  bool deterministic = false;  // the scheduler repeats decode steps after a preemption
  int32_t answer_margin_tokens = 16;
};

struct StepAnswer {
  std::vector<TokenId> tokens;
  std::vector<TokenLogprobs> logprobs;
  std::vector<TokenLogprobs> prompt_logprobs;
  FinishReason reason = FinishReason::kNone;
};

class StepLoop {
 public:
  // Makes the step program, warms it and seals `ops`.
  StepLoop(Ops& ops, Model& model, const StepLoopOptions& options);

  void submit(RequestId id, const std::vector<TokenId>& prompt, const SamplingParams& sampling);
  void cancel(RequestId id) { scheduler_.cancel(id); }
  // One turn: as many plans as may be in flight, then the oldest result. False when idle.
  bool turn();
  void run_until_idle() {
    while (turn()) {
    }
  }

  const std::map<RequestId, StepAnswer>& answers() const { return answers_; }
  EngineStats stats() const { return scheduler_.stats(); }
  // Steps that had decode or verify rows alone.
  int64_t decode_steps() const { return decode_steps_; }
  int32_t in_flight_max() const { return in_flight_max_; }

 private:
  void take(const CommitOutput& output);

  int64_t now_us_ = 0;
  std::unique_ptr<StepProgram> program_;
  Scheduler scheduler_;
  std::map<RequestId, StepAnswer> answers_;
  int64_t decode_steps_ = 0;
  int32_t in_flight_max_ = 0;
};

}  // namespace fathom::testing
