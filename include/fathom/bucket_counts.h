// BucketCounts: a histogram as a value, its bounds known when it is compiled: what the step loop
// counts and the engine's heartbeats carry.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

namespace fathom {

template <size_t N>
struct BucketCounts {
  // By bucket: values over the bound before and up to this one; the last: over all bounds.
  std::array<uint64_t, N + 1> counts{};
  double sum = 0.0;

  // `bounds` ascend.
  void add(const std::array<double, N>& bounds, double value) {
    const auto at = std::lower_bound(bounds.begin(), bounds.end(), value);
    ++counts[static_cast<size_t>(at - bounds.begin())];
    sum += value;
  }
};

// Of a step: from its launch to its result, and the tokens that it computed, drafts included.
inline constexpr std::array kStepSecondsBounds = {.0005, .001, .002, .003, .004, .006, .008,
                                                  .01,   .015, .02,  .03,  .05,  .075, .1,
                                                  .15,   .25,  .5,   1.0,  2.5,  5.0};
inline constexpr std::array kStepTokensBounds = {1.0,   2.0,   4.0,    8.0,    16.0,
                                                 32.0,  64.0,  128.0,  256.0,  512.0,
                                                 1024., 2048., 4096.0, 8192.0, 16384.0};

using StepSeconds = BucketCounts<kStepSecondsBounds.size()>;
using StepTokens = BucketCounts<kStepTokensBounds.size()>;

}  // namespace fathom
