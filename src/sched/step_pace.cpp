// Running means of steps without prompts, by rows, and prices that follow what prompts add.
#include "sched/step_pace.h"

#include <algorithm>
#include <bit>
#include <numeric>

namespace fathom {
namespace {

// The share of a new observation of rows alone, and of prompts: contexts grow, clocks change.
constexpr double kRowShare = 0.25;
constexpr double kShare = 0.1;
constexpr double kDrawn = 0.1;  // the weight of what prices were
// A prompt's part that is less of its step than this says nothing of its price: steps vary.
constexpr double kPartMin = 0.05;
// As many pairs cost a token, until a long context says otherwise.
constexpr double kTokenPairs = 8192.0;
constexpr double kLeastUs[] = {0.0, 0.01, 1e-6};  // of a step, a token, a pair
constexpr double kStepMax = 4.0;                  // a step says at most that prices are so wrong
constexpr int kRounds = 30;
constexpr int64_t kStaleSteps = 64;

void mix(double& mean, double value, double share) {
  mean = mean == 0.0 ? value : mean + share * (value - mean);
}

size_t row_class(int32_t rows, size_t classes) {
  const auto width = std::bit_width(static_cast<uint32_t>(std::max(rows, 1) - 1));
  return std::min(static_cast<size_t>(width), classes - 1);
}

}  // namespace

void StepPace::observe(int32_t decode_rows, const PromptWork& prompts, int64_t us) {
  if (us <= 0 || (decode_rows == 0 && prompts.tokens == 0.0)) return;
  ++steps_;
  const auto all = static_cast<double>(us);
  if (prompts.tokens == 0.0) {
    seen_[row_class(decode_rows, kRowClasses)] = steps_;
    mix(decode_us_[row_class(decode_rows, kRowClasses)], all, kRowShare);
    return;
  }
  const std::optional<double> without = decode_rows == 0 ? 0.0 : decode_us(decode_rows);
  if (!without) return;
  const double added = all - *without;
  const double foretold = known_ ? prices()->step_us + prices()->us(prompts) : 0.0;
  if (std::max(foretold, added) < kPartMin * all) return;
  learn(prompts, added, std::max(all, *without));
}

// The prices that explain the last steps best, by least squares of what the steps took, relative to
// their length; drawn to what they were, so that steps of one kind leave none undecided: prices
// keep what steps of other kinds said. None falls below its least: by coordinates in turn.
void StepPace::learn(const PromptWork& prompts, double us, double all_us) {
  if (!known_) {
    known_ = true;
    const double token_us =
        std::max(kLeastUs[1], us / (prompts.tokens + prompts.pairs / kTokenPairs));
    prices_us_ = {0.0, token_us, token_us / kTokenPairs};
  }
  const Terms x = {1.0, prompts.tokens, prompts.pairs};
  const double foretold = std::inner_product(x.begin(), x.end(), prices_us_.begin(), 0.0);
  us = std::clamp(us, foretold / kStepMax, foretold * kStepMax);
  const double weight = 1.0 / (all_us * all_us);
  for (size_t i = 0; i < x.size(); ++i) {
    took_[i] = took_[i] * (1.0 - kShare) + weight * x[i] * us;
    for (size_t j = 0; j < x.size(); ++j)
      products_[i][j] = products_[i][j] * (1.0 - kShare) + weight * x[i] * x[j];
  }
  const Terms before = prices_us_;
  for (int round = 0; round < kRounds; ++round) {
    for (size_t i = 0; i < x.size(); ++i) {
      if (products_[i][i] == 0.0) continue;
      double left = took_[i] + kDrawn * products_[i][i] * before[i];
      for (size_t j = 0; j < x.size(); ++j) left -= j == i ? 0.0 : products_[i][j] * prices_us_[j];
      prices_us_[i] = std::max(kLeastUs[i], left / (products_[i][i] * (1.0 + kDrawn)));
    }
  }
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

std::optional<ChunkPrices> StepPace::prices() const {
  if (!known_) return std::nullopt;
  return ChunkPrices{prices_us_[0], prices_us_[1], prices_us_[2]};
}

bool StepPace::is_stale(int32_t decode_rows) const {
  const size_t at = row_class(decode_rows, kRowClasses);
  return decode_us_[at] == 0.0 || steps_ - seen_[at] > kStaleSteps;
}

}  // namespace fathom
