// Encoding takes time linear in the input, also for inputs made to be slow: time(2n)/time(n) is at
// most 2.3 on forty patterns, for n of half a megabyte and of one. Not below: a pattern of growing
// runs has pieces as long as the root of n, and taking tokens back at a piece's end costs a piece
// up to 25 us, so that there the pieces' length shows (at most 60 ns a byte, at 256 KiB).
// text_bench measures every pattern at the larger size with every tokenizer.
#include <gtest/gtest.h>

#include <algorithm>
#include <ctime>

#include "tests/support/real_tokenizers.h"
#include "tests/text/hostile_patterns.h"
#include "text/tokenizer.h"

namespace fathom::text {
namespace {

constexpr std::size_t kSmallBytes = 512 << 10;
constexpr std::size_t kLargeBytes = 1 << 20;
constexpr const char* kNames[] = {"deepseek_v3", "qwen3", "llama3_1"};
constexpr double kRatioMax = 2.3;
constexpr int kPairsMin = 5;
constexpr int kPairsMax = 40;

// Time of this thread alone, which other programs disturb only through the caches.
double thread_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

double seconds_to_encode(const Tokenizer& tokenizer, const std::string& text) {
  const double begin = thread_seconds();
  EXPECT_TRUE(tokenizer.encode(text, {.allow_control_tokens = true}).is_ok());
  return thread_seconds() - begin;
}

// Least time of 2n over least time of n: other programs on the machine only ever add to a time, and
// take turns adding to these two; what grows faster than its input does so in its least time too.
double growth(const Tokenizer& tokenizer, const HostilePattern& pattern, std::size_t bytes) {
  const std::string once = pattern.make(bytes), twice = pattern.make(2 * bytes);
  double first = 1e9;
  double second = 1e9;
  for (int pair = 0; pair < kPairsMax; ++pair) {
    if (pair >= kPairsMin && second <= kRatioMax * first) break;
    first = std::min(first, seconds_to_encode(tokenizer, once));
    second = std::min(second, seconds_to_encode(tokenizer, twice));
  }
  return second / first;
}

class Linearity : public ::testing::TestWithParam<std::size_t> {};

TEST_P(Linearity, DoublingTheInputDoublesTheTime) {
  FATHOM_REAL_TOKENIZERS_OR_SKIP(folder);
  const auto files = ::fathom::testing::read_real_tokenizer(*folder, kNames[GetParam()]);
  const std::shared_ptr<const Tokenizer> tokenizer = Tokenizer::parse(files.value()).value();
  const std::vector<HostilePattern>& patterns = hostile_patterns();
  ASSERT_EQ(patterns.size(), 40u);
  for (std::size_t i = 0; i < patterns.size(); ++i) {
    EXPECT_LE(growth(*tokenizer, patterns[i], kSmallBytes), kRatioMax) << patterns[i].name;
    if (i % std::size(kNames) != GetParam()) continue;  // the large size takes each a third
    EXPECT_LE(growth(*tokenizer, patterns[i], kLargeBytes), kRatioMax)
        << patterns[i].name << ", large";
  }
}

INSTANTIATE_TEST_SUITE_P(Real, Linearity, ::testing::Range<std::size_t>(0, std::size(kNames)),
                         [](const auto& info) { return kNames[info.param]; });

}  // namespace
}  // namespace fathom::text
