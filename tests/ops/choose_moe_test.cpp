// Which experts run on the kernels for few tokens.
#include "ops/cuda/choose_moe.h"

#include <gtest/gtest.h>

#include "kernels/moe_limits.h"

namespace fathom {
namespace {

// DeepSeek-V2-Lite's layer.
MoeProblem v2_lite(int64_t tokens) {
  MoeProblem p;
  p.tokens = tokens;
  p.experts_per_token = 6;
  p.experts = p.experts_here = 64;
  p.hidden = 2048;
  p.width = 1408;
  p.weight = WeightFormat::kFp8Block;
  p.act = ActFormat::kFp8Block;
  return p;
}

TEST(ChooseMoe, TakesFewTokensOfNativeFormats) {
  EXPECT_EQ(choose_moe(v2_lite(1)), MoeKernel::kFewTokens);
  EXPECT_EQ(choose_moe(v2_lite(64)), MoeKernel::kFewTokens);
  EXPECT_EQ(choose_moe(v2_lite(65)), MoeKernel::kGrouped);
  MoeProblem bf16 = v2_lite(8);
  bf16.weight = WeightFormat::kBF16;
  EXPECT_EQ(choose_moe(bf16), MoeKernel::kPlain) << "weights and activations differ";
  bf16.act = ActFormat::kBF16;
  EXPECT_EQ(choose_moe(bf16), MoeKernel::kFewTokens);
}

TEST(ChooseMoe, LeavesOtherShapesToThePlainKernels) {
  MoeProblem p = v2_lite(1);
  p.width = 1400;
  EXPECT_EQ(choose_moe(p), MoeKernel::kPlain);
  p = v2_lite(1);
  p.first_column_in_block = 64;  // a split scale block
  EXPECT_EQ(choose_moe(p), MoeKernel::kPlain);
  p = v2_lite(1);
  p.experts_here = 0;
  EXPECT_EQ(choose_moe(p), MoeKernel::kPlain);
  p = v2_lite(64);
  p.experts_per_token = 9;  // over 512 pairs
  EXPECT_EQ(choose_moe(p), MoeKernel::kGrouped);
}

TEST(ChooseMoe, GroupsManyTokensOfWholeScaleBlocks) {
  MoeProblem p = v2_lite(8192);
  EXPECT_EQ(choose_moe(p), MoeKernel::kGrouped);
  EXPECT_TRUE(suits_grouped(v2_lite(1))) << "its tables are made by whichever step comes first";
  p.scale_rows_aligned = false;
  EXPECT_EQ(choose_moe(p), MoeKernel::kPlain);
  p = v2_lite(8192);
  p.act = ActFormat::kF32;  // reference numerics
  EXPECT_EQ(choose_moe(p), MoeKernel::kPlain);
  p = v2_lite(8192);
  p.experts = p.experts_here = 1024;
  EXPECT_EQ(choose_moe(p), MoeKernel::kPlain);
  p = v2_lite(8192);
  p.width = 1400;
  EXPECT_EQ(choose_moe(p), MoeKernel::kPlain);
}

TEST(ChooseMoe, BoundsTheTilesOfASchedule) {
  EXPECT_EQ(kernels::moe_tiles_max(6, 64), 6);
  EXPECT_EQ(kernels::moe_tiles_max(384, 64), 64 + 48);
  EXPECT_EQ(kernels::moe_tiles_max(512, 8), 8 + 64);
}

}  // namespace
}  // namespace fathom
