// PacedExecutor: the simulated executor, held back until the reader has what earlier steps made. So
// every step's tokens cross the whole front end one by one, as those of a GPU do, and none waits
// for the next. Engine thread; the figures from any.
#pragma once

#include <atomic>
#include <optional>

#include "support/sim_executor.h"
#include "token_gate.h"

namespace fathom::bench {

class PacedExecutor final : public Executor {
 public:
  // A step is handed out once all but `unread_max` of the tokens before it have arrived; none: at
  // once.
  PacedExecutor(SimOptions options, TokenGate& gate, std::optional<uint64_t> unread_max);

  int32_t depth() const override { return sim_.depth(); }
  void submit(StepPlan plan) override;
  std::optional<StepResult> poll() override;
  int event_fd() const override { return gate_.wake().fd(); }
  Status health() const override;

  // CPU time that the simulation itself has taken.
  double sim_cpu_s() const { return sim_cpu_s_.load(std::memory_order_relaxed); }
  // That of the engine's thread: the simulation's, and the scheduler's and the loop's beside it.
  double engine_cpu_s() const { return engine_cpu_s_.load(std::memory_order_relaxed); }
  uint64_t steps() const { return steps_.load(std::memory_order_relaxed); }

 private:
  bool may_hand_out() const;
  void count_cpu(double start_s);

  SimExecutor sim_;
  TokenGate& gate_;
  const std::optional<uint64_t> unread_max_;
  int32_t pending_ = 0;
  uint64_t made_;  // tokens handed out, on top of what the gate had counted before
  std::atomic<double> sim_cpu_s_{0.0};
  std::atomic<double> engine_cpu_s_{0.0};
  std::atomic<uint64_t> steps_{0};
};

}  // namespace fathom::bench
