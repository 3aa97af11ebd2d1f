// Running means of steps without prompts, by rows, and of what a prompt's token adds.
#include "sched/step_pace.h"

#include <algorithm>
#include <bit>

namespace fathom {
namespace {

// The share of a new observation: contexts grow, clocks change.
constexpr double kShare = 0.25;
// A step of fewer tokens says little of what one of them costs.
constexpr double kFullTokens = 256.0;
constexpr double kTokenUsMin = 0.01;
constexpr int64_t kStaleSteps = 64;

void mix(double& mean, double value, double share) {
  mean = mean == 0.0 ? value : mean + share * (value - mean);
}

size_t row_class(int32_t rows, size_t classes) {
  const auto width = std::bit_width(static_cast<uint32_t>(std::max(rows, 1) - 1));
  return std::min(static_cast<size_t>(width), classes - 1);
}

}  // namespace

void StepPace::observe(int32_t decode_rows, int32_t prefill_tokens, int64_t us) {
  if (us <= 0 || decode_rows + prefill_tokens == 0) return;
  ++steps_;
  const auto all = static_cast<double>(us);
  if (prefill_tokens == 0) {
    seen_[row_class(decode_rows, kRowClasses)] = steps_;
    mix(decode_us_[row_class(decode_rows, kRowClasses)], all, kShare);
    return;
  }
  const std::optional<double> without = decode_rows == 0 ? 0.0 : decode_us(decode_rows);
  if (!without) return;
  const auto tokens = static_cast<double>(prefill_tokens);
  const double share = kShare * std::min(1.0, tokens / kFullTokens);
  mix(token_us_, std::max(kTokenUsMin, (all - *without) / tokens), share);
}

std::optional<double> StepPace::decode_us(int32_t rows) const {
  const size_t at = row_class(rows, kRowClasses);
  for (size_t i = at + 1; i-- > 0;) {
    if (decode_us_[i] > 0.0) return decode_us_[i];
  }
  for (size_t i = at + 1; i < kRowClasses; ++i) {
    if (decode_us_[i] > 0.0) return decode_us_[i];
  }
  return std::nullopt;
}

bool StepPace::is_stale(int32_t decode_rows) const {
  const size_t at = row_class(decode_rows, kRowClasses);
  return decode_us_[at] == 0.0 || steps_ - seen_[at] > kStaleSteps;
}

std::optional<int64_t> StepPace::tokens_beside(int32_t decode_rows, double slowdown) const {
  const std::optional<double> without = decode_us(decode_rows);
  if (!without || token_us_ == 0.0) return std::nullopt;
  return static_cast<int64_t>((slowdown - 1.0) * *without / token_us_);
}

}  // namespace fathom
