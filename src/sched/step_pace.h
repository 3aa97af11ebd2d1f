// StepPace: what steps of this engine take, learned from those that committed: rows that decode by
// their number, and prices of the prompts' part in microseconds. Pure logic, owned by the
// Scheduler; engine thread.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

#include "sched/chunk_price.h"

namespace fathom {

class StepPace {
 public:
  // A step took `us` of its own, the time that it waited for the step before it left out.
  void observe(int32_t decode_rows, const PromptWork& prompts, int64_t us);

  // Of about so many rows alone. None while no rows were seen.
  std::optional<double> decode_us(int32_t rows) const;
  // Of prompts beside them. None while no prompt was seen whose step said something.
  std::optional<ChunkPrices> prices() const;

  // About so many rows alone were not seen for a while: a step of theirs would tell.
  bool is_stale(int32_t decode_rows) const;

 private:
  using Terms = std::array<double, 3>;  // of a step with prompts itself, tokens, pairs

  void learn(const PromptWork& prompts, double us, double all_us);

  static constexpr size_t kRowClasses = 16;      // 1, 2, 3 to 4, 5 to 8, ...
  std::array<double, kRowClasses> decode_us_{};  // 0: never seen
  std::array<int64_t, kRowClasses> seen_{};      // the step that was the last of its class
  bool known_ = false;                           // whether a prompt was seen
  Terms prices_us_{};
  // Of recent steps with prompts: sums of products of terms, and of terms and what they took.
  std::array<Terms, 3> products_{};
  Terms took_{};
  int64_t steps_ = 0;
};

}  // namespace fathom
