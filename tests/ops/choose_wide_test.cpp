// The chooser of the wide product's shapes: no GPU needed.
#include "ops/cuda/choose_wide.h"

#include <gtest/gtest.h>

#include <tuple>

namespace fathom {
namespace {

GemmProblem problem(WeightFormat format, int64_t rows, int64_t out, int64_t in) {
  GemmProblem p;
  p.rows = rows;
  p.out = out;
  p.in = in;
  p.weight = format;
  p.act = format == WeightFormat::kFp8Block ? ActFormat::kFp8Block : ActFormat::kBF16;
  return p;
}

TEST(ChooseWide, FitsAnSmsSharedMemoryAndACluster) {
  for (const WeightFormat format : {WeightFormat::kBF16, WeightFormat::kFp8Block}) {
    for (const int64_t out : {8, 576, 2048, 4096, 6144, 28672, 128256}) {
      for (const int64_t in : {64, 128, 2048, 4096, 14336}) {
        const auto choice = choose_wide(problem(format, 128, out, in));
        ASSERT_TRUE(choice) << out << " " << in;
        const kernels::WidePlan& plan = choice->plan;
        EXPECT_LE(kernels::wide_shared_bytes(plan, plan.stages), kernels::kWideSharedMax);
        EXPECT_GE(plan.stages, 3);
        EXPECT_LE(plan.split, kernels::kWideSplitMax);
        EXPECT_LE(plan.split, plan.columns / 8);
      }
    }
  }
}

TEST(ChooseWide, TakesWhatWasMeasuredFastestForLlama) {
  using Shape = std::tuple<int32_t, int32_t, int32_t>;
  const auto shape = [](const GemmProblem& p) {
    const kernels::WidePlan plan = choose_wide(p)->plan;
    return Shape(plan.columns, plan.parts, plan.split);
  };
  constexpr WeightFormat kBF16 = WeightFormat::kBF16;
  constexpr WeightFormat kFp8 = WeightFormat::kFp8Block;
  EXPECT_EQ(shape(problem(kBF16, 128, 28672, 4096)), Shape(56, 2, 1));
  EXPECT_EQ(shape(problem(kBF16, 128, 4096, 14336)), Shape(112, 1, 3));
  EXPECT_EQ(shape(problem(kBF16, 128, 6144, 4096)), Shape(96, 1, 2));
  EXPECT_EQ(shape(problem(kBF16, 128, 4096, 4096)), Shape(72, 1, 2));
  EXPECT_EQ(shape(problem(kFp8, 128, 28672, 4096)), Shape(112, 2, 1));
  EXPECT_EQ(shape(problem(kFp8, 128, 4096, 14336)), Shape(112, 1, 3));
  EXPECT_EQ(shape(problem(kFp8, 128, 7168, 16384)), Shape(112, 1, 2));
}

TEST(ChooseWide, LetsTwoBlocksShareAnSm) {
  const kernels::WidePlan plan = choose_wide(problem(WeightFormat::kBF16, 128, 28672, 4096))->plan;
  EXPECT_LE(kernels::wide_shared_bytes(plan, plan.stages), kernels::kWideSharedHalf);
}

TEST(ChooseWide, LeavesOutputsAloneThatVectorsDoNotFit) {
  EXPECT_FALSE(choose_wide(problem(WeightFormat::kBF16, 128, 37, 512)));
  GemmProblem p = problem(WeightFormat::kBF16, 128, 4096, 4096);
  p.out_in_vectors = false;
  EXPECT_FALSE(choose_wide(p));
  p = problem(WeightFormat::kBF16, 128, 136, 256);
  p.gated = true;
  EXPECT_FALSE(choose_wide(p));  // of the halves of 68
}

TEST(ChooseWide, GatesOnlyInTilesOfTwoParts) {
  GemmProblem p = problem(WeightFormat::kBF16, 128, 28672, 4096);
  p.gated = true;
  EXPECT_EQ(choose_wide(p)->plan.parts, 2);
}

}  // namespace
}  // namespace fathom
