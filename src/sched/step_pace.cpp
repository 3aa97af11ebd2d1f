// Running means of steps without prompts, by rows, and prices that follow what prompts add.
#include "sched/step_pace.h"

#include <algorithm>
#include <bit>

namespace fathom {
namespace {

// The share of a new observation: contexts grow, clocks change.
constexpr double kShare = 0.25;
// A prompt's part that is less of its step than this says nothing of its price: steps vary.
constexpr double kPartMin = 0.05;
// As many pairs cost a token, until a long context says otherwise.
constexpr double kPairsOfToken = 8192.0;
constexpr double kTokenUsMin = 0.01;
constexpr double kPairUsMin = 1e-6;
constexpr double kStepMax = 4.0;  // a step says at most that prices are so wrong
constexpr double kDrawn = 0.03;   // to what prices were
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
    mix(decode_us_[row_class(decode_rows, kRowClasses)], all, kShare);
    return;
  }
  const std::optional<double> without = decode_rows == 0 ? 0.0 : decode_us(decode_rows);
  if (!without) return;
  const double added = all - *without;
  if (std::max(prices_.us(prompts), added) < kPartMin * all) return;
  learn(prompts, added, std::max(all, *without));
}

// The prices that explain the last steps best, by least squares of what the steps took, relative to
// their length; drawn a little to what they were, so that steps of one kind leave none undecided.
void StepPace::learn(const PromptWork& prompts, double us, double all_us) {
  const double t = prompts.tokens;
  const double p = prompts.pairs;
  if (prices_.token_us == 0.0) {
    prices_.token_us = std::max(kTokenUsMin, us / (t + p / kPairsOfToken));
    prices_.pair_us = prices_.token_us / kPairsOfToken;
  }
  const double foretold = prices_.us(prompts);
  us = std::clamp(us, foretold / kStepMax, foretold * kStepMax);
  const double weight = 1.0 / (all_us * all_us);
  for (double* sum : {&sums_.tt, &sums_.tp, &sums_.pp, &sums_.ty, &sums_.py}) *sum *= 1.0 - kShare;
  sums_.tt += weight * t * t;
  sums_.tp += weight * t * p;
  sums_.pp += weight * p * p;
  sums_.ty += weight * t * us;
  sums_.py += weight * p * us;
  const double tt = sums_.tt * (1.0 + kDrawn);
  const double pp = sums_.pp * (1.0 + kDrawn);
  const double ty = sums_.ty + kDrawn * sums_.tt * prices_.token_us;
  const double py = sums_.py + kDrawn * sums_.pp * prices_.pair_us;
  const double determinant = tt * pp - sums_.tp * sums_.tp;
  ChunkPrices found = prices_;
  if (determinant > 0.0) {
    found = {(ty * pp - py * sums_.tp) / determinant, (py * tt - ty * sums_.tp) / determinant};
  } else {
    found.token_us = ty / tt;
  }
  // Neither is without cost: what the other would take on itself alone.
  if (found.token_us < kTokenUsMin && pp > 0.0)
    found = {kTokenUsMin, (py - kTokenUsMin * sums_.tp) / pp};
  if (found.pair_us < kPairUsMin) found = {(ty - kPairUsMin * sums_.tp) / tt, kPairUsMin};
  prices_ = {std::max(found.token_us, kTokenUsMin), std::max(found.pair_us, kPairUsMin)};
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
  if (prices_.token_us == 0.0) return std::nullopt;
  return prices_;
}

bool StepPace::is_stale(int32_t decode_rows) const {
  const size_t at = row_class(decode_rows, kRowClasses);
  return decode_us_[at] == 0.0 || steps_ - seen_[at] > kStaleSteps;
}

}  // namespace fathom
