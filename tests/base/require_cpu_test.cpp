// The refusal of processors that our code does not run on.
#include "base/require_cpu.h"

#include <gtest/gtest.h>

namespace fathom {
namespace {

TEST(RequireCpu, NamesWhatIsMissing) {
  const CpuInstructions all{true, true, true, true};
  EXPECT_EQ(missing_instructions(all), nullptr);
  EXPECT_STREQ(missing_instructions({}), "AVX2");
  EXPECT_STREQ(missing_instructions({true, false, true, true}), "FMA");
  EXPECT_STREQ(missing_instructions({true, true, false, true}), "F16C");
  EXPECT_STREQ(missing_instructions({true, true, true, false}), "BMI2");
}

}  // namespace
}  // namespace fathom
