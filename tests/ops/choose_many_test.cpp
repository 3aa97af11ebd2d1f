// The chooser of the kernel for many rows: no GPU needed.
#include "ops/cuda/choose_many.h"

#include <gtest/gtest.h>

#include "kernels/many_plan.h"

namespace fathom {
namespace {

ManyProblem gate_up(int64_t rows) {
  ManyProblem p;
  p.rows = rows;
  p.out = 28672;
  p.in = 4096;
  p.weight = WeightFormat::kFp8Block;
  p.act = ActFormat::kFp8Block;
  p.gated = true;
  p.whole_blocks = true;
  return p;
}

TEST(ChooseMany, TakesPromptsAndLeavesDecodeStepsAlone) {
  for (const int64_t rows : {1024, 2048, 8192}) EXPECT_TRUE(choose_many(gate_up(rows))) << rows;
  for (const int64_t rows : {1, 64, 128, 256, 512})
    EXPECT_FALSE(choose_many(gate_up(rows))) << rows;
}

TEST(ChooseMany, LeavesProductsThatEndInAHalfEmptyRound) {
  ManyProblem p = gate_up(2048);
  p.gated = false;
  p.out = 6144;  // 8 x 24 items on 66 twos of blocks
  EXPECT_TRUE(choose_many(p));
  p.rows = 1024;  // 96 items
  EXPECT_FALSE(choose_many(p));
  p.out = 4096;  // 64 items
  EXPECT_TRUE(choose_many(p));
  EXPECT_FALSE(choose_many(gate_up(520))) << "of the last tiles most rows are not there";
}

TEST(ChooseMany, RefusesWhatTheKernelCannotRead) {
  ManyProblem p = gate_up(2048);
  p.weight = WeightFormat::kBF16;
  p.act = ActFormat::kBF16;
  EXPECT_FALSE(choose_many(p));
  p = gate_up(2048);
  p.act = ActFormat::kF32;  // reference numerics
  EXPECT_FALSE(choose_many(p));
  p = gate_up(2048);
  p.whole_blocks = false;
  EXPECT_FALSE(choose_many(p));
  p = gate_up(2048);
  p.aligned = false;
  EXPECT_FALSE(choose_many(p));
  p = gate_up(2048);
  p.hopper = false;
  EXPECT_FALSE(choose_many(p));
  p = gate_up(2048);
  p.out = 21888;  // 10,944 rows each: the up matrix begins inside a tile
  EXPECT_FALSE(choose_many(p));
  p = gate_up(2048);
  p.in = 4096 + 128;  // scales that do not come in fours
  EXPECT_FALSE(choose_many(p));
}

TEST(ChooseMany, StaysOutOfDeterministicSteps) {
  ManyProblem p = gate_up(8192);
  p.deterministic = true;
  EXPECT_FALSE(choose_many(p));
}

TEST(ManyPlan, FitsWholeTiles) {
  EXPECT_TRUE(kernels::many_gemm_fits(6144, 4096, false));
  EXPECT_TRUE(kernels::many_gemm_fits(384, 512, false));
  EXPECT_FALSE(kernels::many_gemm_fits(384, 512, true));
  EXPECT_FALSE(kernels::many_gemm_fits(100, 512, false));
  EXPECT_FALSE(kernels::many_gemm_fits(256, 0, false));
}

}  // namespace
}  // namespace fathom
