#include "fathom/status.h"

#include <gtest/gtest.h>

#include <memory>

namespace fathom {
namespace {

Result<int> half(int n) {
  if (n % 2 != 0) return invalid_argument("n must be even").about("n");
  return n / 2;
}

Result<int> quarter(int n) {
  FATHOM_ASSIGN(int h, half(n));
  return half(h);
}

TEST(Status, CarriesCodeMessageAndSubject) {
  Status s = half(3).status();
  EXPECT_EQ(s.code(), Code::kInvalidArgument);
  EXPECT_EQ(s.subject(), "n");
  EXPECT_EQ(s.to_string(), "INVALID_ARGUMENT: n must be even [n]");
}

TEST(Result, AssignPassesTheFirstErrorOn) {
  EXPECT_EQ(quarter(8).value(), 2);
  EXPECT_FALSE(quarter(6).is_ok());
}

TEST(Result, HoldsMoveOnlyValues) {
  Result<std::unique_ptr<int>> r = std::make_unique<int>(7);
  std::unique_ptr<int> p = std::move(r).value();
  EXPECT_EQ(*p, 7);
}

TEST(ResultDeathTest, ValueOfAnErrorEndsTheProcess) {
  EXPECT_DEATH({ (void)half(1).value(); }, "n must be even");
}

}  // namespace
}  // namespace fathom
