// SimExecutor: an Executor with no model behind it, for the scheduler's simulator, engine tests and
// benchmarks of the front end. It keeps a slot table of its own as a rank would, runs plans in
// order, accepts a random number of drafts, and notices what no correct scheduler asks for. The
// results of a step that is not complete are poison. Called by one thread.
//
// With no step time, a plan's result is ready when submit() returns, and event_fd() is readable.
// With a step time, time is virtual: it moves by advance_to(), and event_fd() is never readable.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "fathom/executor.h"
#include "fathom/kv_layout.h"
#include "support/sim_memory.h"
#include "support/sim_model.h"
#include "support/sim_random.h"

namespace fathom {

struct SimOptions {
  int32_t depth = 2;
  int32_t slots = 257;  // slot 0 counted
  int32_t tokens_max = 4096;
  int32_t drafts_max = 0;
  SimModel model;
  // With a model that has cache groups: their blocks (padding counted), and tokens of a block.
  std::vector<int32_t> blocks;
  int32_t block_tokens = 64;
  uint64_t seed = 1;           // of acceptance, durations and failures
  int32_t step_us_max = 0;     // a step takes 1 to so many virtual microseconds; 0: none
  int32_t failure_period = 0;  // one step in so many fails for good; 0: none does
};

inline constexpr TokenId kPoisonToken = -559038737;

class SimExecutor : public Executor {
 public:
  explicit SimExecutor(SimOptions options);
  ~SimExecutor() override;
  SimExecutor(const SimExecutor&) = delete;
  SimExecutor& operator=(const SimExecutor&) = delete;

  int32_t depth() const override { return options_.depth; }
  void submit(StepPlan plan) override;
  std::optional<StepResult> poll() override;
  int event_fd() const override { return event_fd_; }
  Status health() const override { return health_; }

  // Virtual time.
  void advance_to(int64_t now_us);
  // When the oldest plan in flight completes.
  std::optional<int64_t> next_ready_us() const;

  // What the oldest plan's output memory holds before the step is complete: poison of a plausible
  // shape. A correct engine never looks.
  StepResult output_before_completion() const;
  const std::optional<std::string>& violation() const { return memory_.violation(); }

 private:
  struct Slot {
    bool open = false;
    std::vector<TokenId> history;
    int32_t prompt_tokens = 0;
    int32_t length_max = 0;
    int32_t shared_blocks = 0;  // from the prefix cache: read only
    FinishReason finished = FinishReason::kNone;
    uint64_t value = 0;  // of the last accepted position
    std::shared_ptr<const SamplingParams> sampling;
  };
  struct Pending {
    StepPlan plan;
    int64_t ready_us = 0;
    int64_t own_us = 0;
  };

  void check_plan(const StepPlan& plan);
  void edit_slots(const StepPlan& plan);
  void open_slot(const OpenSlot& open);
  StepResult execute(const StepPlan& plan);
  RowResult run_row(const PlanRow& row);
  void run_prefill(const PlanRow& row, Slot& slot, RowResult& result);
  void run_decode(const PlanRow& row, Slot& slot, RowResult& result);
  // Computes one position with `token` as its input; returns its cached value. `before`: that of
  // the position before it, where no cache is modelled to read it from.
  uint64_t compute(SlotId id, int32_t position, uint64_t before, TokenId token);
  TokenId sample(SlotId id, const Slot& slot, int32_t position, uint64_t value);
  void push_token(Slot& slot, TokenId token, RowResult& result);
  void signal();
  void clear_signal();

  const SimOptions options_;
  SimMemory memory_;
  SimRandom random_;
  Status health_;
  std::vector<Slot> slots_;
  std::vector<int32_t> computed_;    // [slot]
  std::vector<uint8_t> open_ahead_;  // [slot] open once the plans in flight have run
  std::vector<int32_t> named_;       // [slot] plans in flight with a row of it
  std::vector<uint64_t> sums_;       // of one position, per group
  std::vector<Pending> pending_;     // oldest first
  uint64_t last_number_ = 0;
  int64_t now_us_ = 0;
  int event_fd_ = -1;
};

// A logprob that tests can compare: a pure function of the token.
float sim_logprob(TokenId token);

}  // namespace fathom
