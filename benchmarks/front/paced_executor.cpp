// The pace is the reader's.
#include "paced_executor.h"

#include <utility>

#include "cpu_time.h"

namespace fathom::bench {

PacedExecutor::PacedExecutor(SimOptions options, TokenGate& gate,
                             std::optional<uint64_t> unread_max)
    : sim_(std::move(options)), gate_(gate), unread_max_(unread_max), made_(gate.tokens()) {}

Status PacedExecutor::health() const {
  if (sim_.violation()) return internal_error("the scheduler is wrong: " + *sim_.violation());
  return sim_.health();
}

void PacedExecutor::submit(StepPlan plan) {
  const double start = thread_cpu_s();
  sim_.submit(std::move(plan));
  ++pending_;
  count_cpu(start);
  gate_.wake().notify();
}

void PacedExecutor::count_cpu(double start_s) {
  const double now_s = thread_cpu_s();
  sim_cpu_s_.store(sim_cpu_s_.load(std::memory_order_relaxed) + now_s - start_s,
                   std::memory_order_relaxed);
  engine_cpu_s_.store(now_s, std::memory_order_relaxed);
}

bool PacedExecutor::may_hand_out() const {
  if (pending_ == 0) return false;
  return !unread_max_ || made_ <= *unread_max_ || gate_.reached(made_ - *unread_max_);
}

std::optional<StepResult> PacedExecutor::poll() {
  if (!may_hand_out()) {
    gate_.wake().consume();
    if (!may_hand_out()) return std::nullopt;
  }
  const double start = thread_cpu_s();
  std::optional<StepResult> result = sim_.poll();
  count_cpu(start);
  if (!result) return result;
  --pending_;
  steps_.fetch_add(1, std::memory_order_relaxed);
  for (const RowResult& row : result->rows) made_ += row.tokens.size();
  return result;
}

}  // namespace fathom::bench
