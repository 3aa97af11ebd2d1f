// Policy: the scheduler's choices as pure functions of values. Who comes first, who gives way, how
// much of a step a row may take.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

#include "fathom/plan.h"
#include "sched/sequence.h"

namespace fathom {

// What a row asks of a step.
struct RowCost {
  int32_t tokens = 0;
  int64_t token_context_pairs = 0;
};

// The price of a row, in budget units: plain tokens, until a calibration in microseconds exists.
constexpr int64_t row_price(const RowCost& cost) { return cost.tokens; }

// One step's budget.
class StepBudget {
 public:
  explicit StepBudget(int64_t units) : left_(units) {}

  // How many tokens a row with this context could still have.
  int32_t tokens_left(int32_t context) const {
    const int64_t price = row_price({1, context});
    return static_cast<int32_t>(left_ / price);
  }
  // From here on at most `units` more.
  void cap(int64_t units) { left_ = std::min(left_, units); }
  void take(const RowCost& cost) { left_ -= row_price(cost); }

 private:
  int64_t left_;
};

// The place in the queue: arrival, moved back by one step a level of priority. A request is
// overtaken only by those that arrive within its levels' steps, so none starves.
int64_t queue_key(int64_t arrival_us, int32_t priority, int64_t priority_step_us);

// Served first: smaller queue key, then older.
bool runs_before(const Sequence& a, const Sequence& b);

// Gives way first: lower priority, then newer.
bool gives_way_before(const Sequence& a, const Sequence& b);

// Who is preempted so that `needy` gets a block of `group`: the newest of the lowest priority that
// holds some, never the oldest of the running, nobody more than `preemptions_max` times. Null when
// that would be `needy` itself or nobody: it waits.
Sequence* choose_victim(std::span<Sequence* const> running, const Sequence& needy, int32_t group,
                        int32_t preemptions_max);

// Tokens of the next prefill chunk: whole blocks, or the rest. 0 when less than a block fits.
int32_t prefill_chunk(int32_t rest, int32_t tokens_left, int32_t block_tokens);

bool uses_penalties(const SamplingParams& sampling);

constexpr int32_t blocks_for(int32_t tokens, int32_t block_tokens) {
  return (tokens + block_tokens - 1) / block_tokens;
}

}  // namespace fathom
