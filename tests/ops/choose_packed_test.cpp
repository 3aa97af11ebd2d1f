// The chooser of packed products: no GPU needed.
#include "ops/cuda/choose_packed.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <utility>

namespace fathom {
namespace {

using kernels::PackedPlan;

GemmProblem problem(int64_t rows, int64_t out, int64_t in, bool gated = false) {
  GemmProblem p;
  p.rows = rows;
  p.out = out;
  p.in = in;
  p.gated = gated;
  return p;
}

TEST(ChoosePacked, FitsAnSmTheKernelsShapesAndACluster) {
  for (int64_t rows = 1; rows <= kernels::kPackedRowsMax; ++rows) {
    for (const int64_t out : {8, 72, 576, 3648, 4096, 6144, 28672, 128256}) {
      for (const int64_t in : {64, 256, 2048, 4096, 14336}) {
        const auto plan = choose_packed(problem(rows, out, in));
        if (rows > 64 && !plan) continue;
        ASSERT_TRUE(plan) << rows << " " << out << " " << in;
        const auto is_shape = [&](const kernels::PackedShapeOf& s) {
          return s.token_tile == plan->token_tile && s.units == plan->units;
        };
        const auto* shape = std::find_if(std::begin(kernels::kPackedShapes),
                                         std::end(kernels::kPackedShapes), is_shape);
        ASSERT_NE(shape, std::end(kernels::kPackedShapes));
        EXPECT_EQ(plan->slot_rows % 8, 0);
        EXPECT_GE(plan->slot_rows, rows);
        EXPECT_LE(plan->slot_rows, plan->token_tile);
        EXPECT_LE(plan->split, kernels::kPackedSplitMax);
        EXPECT_LE(plan->split, in / kernels::kPackedUnit);
        EXPECT_GE(plan->stages, 2);
        EXPECT_LE(plan->stages, kernels::kPackedStagesMax);
        EXPECT_LE(kernels::packed_shared_bytes(*plan, plan->stages),
                  kernels::packed_room(plan->token_tile, plan->units));
      }
    }
  }
}

TEST(ChoosePacked, LeavesWhatIsNotBf16OrNotInVectors) {
  const auto without = [](auto change) {
    GemmProblem p = problem(8, 4096, 4096);
    change(p);
    return !choose_packed(p).has_value();
  };
  EXPECT_FALSE(without([](GemmProblem&) {}));
  EXPECT_TRUE(without([](GemmProblem& p) { p.rows = 0; }));
  EXPECT_TRUE(without([](GemmProblem& p) { p.rows = kernels::kPackedRowsMax + 1; }));
  EXPECT_TRUE(without([](GemmProblem& p) { p.weight = WeightFormat::kFp8Block; }));
  EXPECT_TRUE(without([](GemmProblem& p) { p.act = ActFormat::kF32; }));
  EXPECT_TRUE(without([](GemmProblem& p) { p.aligned = false; }));
  EXPECT_TRUE(without([](GemmProblem& p) { p.out_in_vectors = false; }));
  EXPECT_TRUE(without([](GemmProblem& p) { p.in = 4096 + 32; }));
  EXPECT_TRUE(without([](GemmProblem& p) { p.out = 37; }));
  EXPECT_TRUE(without([](GemmProblem& p) {
    p.out = 4104;
    p.gated = true;
  }));
  EXPECT_TRUE(without([](GemmProblem& p) { p.hopper = false; }));
  EXPECT_TRUE(without([](GemmProblem& p) { p.deterministic = true; }));
}

TEST(ChoosePacked, TakesWhatWasMeasuredFastestInStepsOfLlama) {
  using Shape = std::pair<int32_t, int32_t>;  // units, split
  const auto shape = [](int64_t rows, int64_t out, int64_t in) {
    const auto plan = choose_packed(problem(rows, out, in));
    return plan ? Shape(plan->units, plan->split) : Shape(0, 0);
  };
  for (const int64_t rows : {1, 32, 64}) {
    EXPECT_EQ(shape(rows, 28672, 4096), Shape(2, 1));
    EXPECT_EQ(shape(rows, 4096, 14336), Shape(1, 3)) << "clusters of four would take turns";
    EXPECT_EQ(shape(rows, 6144, 4096), Shape(2, 4));
    EXPECT_EQ(shape(rows, 4096, 4096), Shape(2, 4));
    EXPECT_EQ(shape(rows, 128256, 4096), Shape(2, 1));
  }
  for (const int64_t rows : {65, 128}) {
    EXPECT_EQ(shape(rows, 28672, 4096), Shape(4, 1));
    EXPECT_EQ(shape(rows, 128256, 4096), Shape(4, 1));
    EXPECT_EQ(shape(rows, 4096, 14336), Shape(2, 3));
    EXPECT_EQ(shape(rows, 3584, 18944), Shape(0, 0)) << "84 blocks do not fill the GPU";
    EXPECT_EQ(shape(rows, 4096, 4096), Shape(0, 0)) << "the plain kernel is as fast";
    EXPECT_EQ(shape(rows, 6144, 4096), Shape(0, 0)) << "the plain kernel is as fast";
  }
}

// A deterministic step, or one in reference numerics, has nothing to read: nothing is packed.
TEST(ChoosePacked, APackedFormIsMadeOnlyWhereItIsRead) {
  EXPECT_TRUE(has_packed_form(problem(0, 4096, 4096)));
  GemmProblem p = problem(0, 4096, 4096);
  p.deterministic = true;
  EXPECT_FALSE(has_packed_form(p));
  p = problem(0, 4096, 4096);
  p.hopper = false;
  EXPECT_FALSE(has_packed_form(p));
}

}  // namespace
}  // namespace fathom
