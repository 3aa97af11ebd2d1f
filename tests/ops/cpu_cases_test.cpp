// CpuOps against the float64 values of the table of op cases.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <map>

#include "ops/cpu/cpu_ops.h"
#include "ops/op_compare.h"

namespace fathom::testing {
namespace {

TEST(CpuOps, EveryCaseEqualsItsFloat64Values) {
  struct Worst {
    int cases = 0;
    double largest = 0.0;
    double mean_square = 0.0;
  };
  const GoldenVectors golden =
      read_golden_vectors(std::string(FATHOM_SOURCE_DIR) + "/tests/golden/ops/op_vectors.bin");
  std::map<std::string, Worst> by_op;
  for (const OpCase& one : op_cases()) {
    const ExpectedValues expected = one.expected(golden);
    for (const int32_t threads : {1, 3}) {
      // One thread on the floor's instructions, three on the widest that this machine has.
      const Instructions with = threads == 1 ? Instructions::kAvx2 : widest_instructions();
      const auto ops = make_cpu_ops({one.numerics, threads, int64_t{512} << 20, with});
      for (const OutputError& error :
           compare_expected(one, run_case(one, *ops, copy_from_host), expected)) {
        EXPECT_EQ(error.complaint, "") << one.name() << ", " << threads << " threads";
        Worst& worst =
            by_op[one.op + (one.numerics == Numerics::kNative ? " native" : " reference")];
        worst.cases += threads == 1 && error.name != "" ? 1 : 0;
        worst.largest = std::max(worst.largest, error.largest);
        worst.mean_square = std::max(worst.mean_square, error.mean_square);
      }
    }
  }
  for (const auto& [name, worst] : by_op) {
    std::printf("%-26s %3d outputs, largest error %.2g, mean square %.2g\n", name.c_str(),
                worst.cases, worst.largest, worst.mean_square);
  }
}

// The drafts of the sample case are what they are said to be: both right, the first, none, an eos
// at the first, the length reached at the second, no drafts, a slot that had finished.
TEST(OpCases, DraftsAreAcceptedRejectedAndCutShort) {
  for (const OpCase& one : sample_cases()) {
    if (one.shape != "drafts") continue;
    const ExpectedValues values = one.expected({});
    const std::vector<double> new_count = {3, 2, 1, 1, 2, 1, 0};
    EXPECT_NE(std::find(values.begin(), values.end(), new_count), values.end());
    return;
  }
  FAIL() << "the table has no such case";
}

}  // namespace
}  // namespace fathom::testing
