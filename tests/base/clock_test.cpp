#include "base/clock.h"

#include <gtest/gtest.h>

namespace fathom {
namespace {

TEST(SystemClock, NeverGoesBackAndKnowsTheYear) {
  SystemClock clock;
  int64_t before = clock.now_us();
  EXPECT_LE(before, clock.now_us());
  EXPECT_GT(clock.unix_us(), int64_t{1'700'000'000} * 1'000'000);
}

TEST(ManualClock, MovesOnlyWhenToldAndBothHandsTogether) {
  ManualClock clock(5);
  int64_t unix_before = clock.unix_us();
  EXPECT_EQ(clock.now_us(), 5);
  clock.advance_us(37);
  EXPECT_EQ(clock.now_us(), 42);
  EXPECT_EQ(clock.unix_us() - unix_before, 37);
}

}  // namespace
}  // namespace fathom
