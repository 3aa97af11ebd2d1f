// StepPace: what steps of this engine take, learned from those that committed: the price of the
// prompts' part of a step in microseconds. Pure logic, owned by the Scheduler; engine thread.
#pragma once

#include <array>
#include <cstdint>
#include <optional>

namespace fathom {

class StepPace {
 public:
  // A step took `us` of its own, the time that it waited for the step before it left out.
  void observe(int32_t decode_rows, int32_t prefill_tokens, int64_t us);

  // How many tokens of prompts may join `decode_rows` rows, so that the step takes at most
  // `slowdown` times as long as those rows alone. None while that is not known.
  std::optional<int64_t> tokens_beside(int32_t decode_rows, double slowdown) const;

  // About so many rows alone were not seen for a while: a step of theirs would tell.
  bool is_stale(int32_t decode_rows) const;

 private:
  // Of rows alone; where so many were never seen, of the nearest count that was.
  std::optional<double> decode_us(int32_t rows) const;

  static constexpr size_t kRowClasses = 16;      // 1, 2, 3 to 4, 5 to 8, ...
  std::array<double, kRowClasses> decode_us_{};  // 0: never seen
  std::array<int64_t, kRowClasses> seen_{};      // the step that was the last of its class
  double token_us_ = 0.0;                        // of one more token of a prompt; 0: never seen
  int64_t steps_ = 0;
};

}  // namespace fathom
