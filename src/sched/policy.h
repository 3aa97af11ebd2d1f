// Policy: the scheduler's choices as pure functions of values. Who comes first, who gives way, how
// much of a step a row may take.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>

#include "fathom/plan.h"
#include "sched/chunk_price.h"
#include "sched/sequence.h"

namespace fathom {

// One step's budget: tokens, and microseconds for prompts where their prices are known.
class StepBudget {
 public:
  StepBudget(int32_t tokens, const ChunkShape& shape) : left_(tokens), shape_(shape) {}

  int32_t tokens_left() const { return left_; }
  // How many tokens of a prompt with this context could still join.
  int32_t prompt_tokens_left(int32_t context) const {
    if (!us_left_) return left_;
    const int32_t within = tokens_within(*us_left_, prices_, shape_, context, left_);
    return std::max(within, std::min(sure_tokens_, left_));
  }
  // No more tokens than so many.
  void cap(int32_t tokens) { left_ = std::min(left_, tokens); }
  // No more tokens at all.
  void close() { left_ = 0; }
  // From here on prompts may add so much; but the first of them so many tokens whatever they cost.
  void bound_prompts(double us, const ChunkPrices& prices, int32_t sure_tokens) {
    us_left_ = us;
    prices_ = prices;
    sure_tokens_ = sure_tokens;
  }
  void take(int32_t tokens) { left_ -= tokens; }
  void take_prompt(int32_t tokens, int32_t context) {
    take(tokens);
    sure_tokens_ = 0;
    if (us_left_) *us_left_ -= prices_.us(shape_.work(tokens, context));
  }

 private:
  int32_t left_;
  ChunkShape shape_;
  std::optional<double> us_left_;
  ChunkPrices prices_;
  int32_t sure_tokens_ = 0;
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

// Tokens of the next prefill chunk: whole units, or the rest. 0 when less than a block fits.
int32_t prefill_chunk(int32_t rest, int32_t tokens_left, int32_t block_tokens, int32_t unit);

// What of a step's `tokens` fills whole rounds of so many, if no more than a third is left over;
// otherwise whole quarters of a round. All of half a round or less.
int32_t whole_rounds(int32_t tokens, int32_t round_tokens);

bool uses_penalties(const SamplingParams& sampling);

constexpr int32_t blocks_for(int32_t tokens, int32_t block_tokens) {
  return (tokens + block_tokens - 1) / block_tokens;
}

}  // namespace fathom
