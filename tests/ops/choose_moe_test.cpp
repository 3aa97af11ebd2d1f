// Which experts run on the kernels for few tokens.
#include "ops/cuda/choose_moe.h"

#include <gtest/gtest.h>

#include "kernels/grouped_limits.h"
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
  EXPECT_EQ(choose_moe(v2_lite(16)), MoeKernel::kFewTokens);
  EXPECT_EQ(choose_moe(v2_lite(17)), MoeKernel::kGrouped);
  MoeProblem v3 = v2_lite(16);
  v3.experts_per_token = 8;
  v3.experts = v3.experts_here = 256;
  EXPECT_EQ(choose_moe(v3), MoeKernel::kFewTokens);
  v3.tokens = 17;
  EXPECT_EQ(choose_moe(v3), MoeKernel::kGrouped);
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

TEST(ChooseMoe, OverlapsTheKernelsWhereABlockHoldsTheTokens) {
  const auto lite = [](int64_t tokens, bool fp8) {
    return MoeFewProblem{tokens, 64, 64, 2048, 1408, fp8};
  };
  for (const int64_t tokens : {1, 8, 9, 16, 32}) {
    EXPECT_TRUE(few_tokens_fit(lite(tokens, true))) << tokens;
    EXPECT_TRUE(few_tokens_fit(lite(tokens, false))) << tokens;
  }
  EXPECT_FALSE(few_tokens_fit(lite(0, true)));
  EXPECT_FALSE(few_tokens_fit(lite(33, true)));
  const auto v3 = [](int64_t tokens) { return MoeFewProblem{tokens, 256, 256, 7168, 2048, true}; };
  EXPECT_TRUE(few_tokens_fit(v3(16)));
  EXPECT_FALSE(few_tokens_fit(v3(17))) << "32 rows of 7 KB leave no room for a ring";
}

TEST(ChooseMoe, SharesAnSmWithTheNextKernelWhereTokensAreFew) {
  const kernels::MoeFewPlan plan = kernels::moe_few_plan(1, 64, 64, 2048, 1);
  EXPECT_EQ(plan.token_tile, 8);
  EXPECT_EQ(plan.steps, 16);
  EXPECT_GE(plan.stages, 8);
  EXPECT_LE(plan.bytes, kernels::kMoeHalfOfSharedMemory);
  EXPECT_EQ(kernels::moe_blocks_of_sm(1, plan), 1);
  EXPECT_EQ(kernels::moe_blocks_of_sm(8, plan), 2);
  const kernels::MoeFewPlan most = kernels::moe_few_plan(32, 64, 64, 4096, 1);
  EXPECT_EQ(most.token_tile, 32);
  EXPECT_GE(most.stages, kernels::kMoeStagesMin);
  EXPECT_EQ(kernels::moe_blocks_of_sm(32, most), 1) << "two do not fit";
  EXPECT_LE(most.bytes, 227 * 1024);
}

TEST(ChooseMoe, GivesEachItemOfOneTokensDownABlock) {
  constexpr int64_t kTiles = 2048 / 64;
  const kernels::MoeFewPlan lite = kernels::moe_few_plan(1, 64, 64, 1408, 2);
  EXPECT_EQ(kernels::moe_down_blocks_of_sm(1, lite, 8 * kTiles, 132), 2);
  EXPECT_EQ(kernels::moe_down_blocks_of_sm(2, lite, 14 * kTiles, 132), 1) << "several items";
  EXPECT_EQ(kernels::moe_down_blocks_of_sm(8, lite, 50 * kTiles, 132), 2);
  kernels::MoeFewPlan large = lite;
  large.bytes = kernels::kMoeHalfOfSharedMemory + 1;
  EXPECT_EQ(kernels::moe_down_blocks_of_sm(1, large, 8 * kTiles, 132), 1) << "two do not fit";
}

TEST(ChooseMoe, DeterministicTokensTakeOneKernelWhateverTheirNumber) {
  for (const int64_t tokens : {1, 8, 64, 65, 8192}) {
    MoeProblem p = v2_lite(tokens);
    p.deterministic = true;
    EXPECT_EQ(choose_moe(p), MoeKernel::kGrouped) << tokens;
    p.width = 1400;
    EXPECT_EQ(choose_moe(p), MoeKernel::kPlain) << tokens;
  }
}

TEST(ChooseMoe, WithoutHopperExpertsRunPairAfterPair) {
  for (const int64_t tokens : {1, 64, 8192}) {
    MoeProblem p = v2_lite(tokens);
    p.hopper = false;
    EXPECT_EQ(choose_moe(p), MoeKernel::kPlain) << tokens;
    EXPECT_FALSE(suits_grouped(p));
  }
}

TEST(ChooseMoe, BoundsTheTilesOfASchedule) {
  EXPECT_EQ(kernels::moe_tiles_max(6, 64), 6);
  EXPECT_EQ(kernels::moe_tiles_max(384, 64), 64 + 48);
  EXPECT_EQ(kernels::moe_tiles_max(512, 8), 8 + 64);
}

TEST(ChooseMoe, PairsBlocksWhereExpertsHaveRowsForBoth) {
  EXPECT_TRUE(kernels::grouped_pairs_blocks(true, 8192 * 8, 256)) << "256 rows an expert";
  EXPECT_FALSE(kernels::grouped_pairs_blocks(true, 8192 * 6, 64)) << "768 rows";
  EXPECT_FALSE(kernels::grouped_pairs_blocks(true, 1024 * 6, 64)) << "96 rows";
  EXPECT_FALSE(kernels::grouped_pairs_blocks(false, 8192 * 8, 256)) << "bf16";
}

TEST(ChooseMoe, CutsAnExpertsRowsIntoTwosOfTiles) {
  for (const int64_t rows : {1, 256, 288}) EXPECT_EQ(kernels::grouped_paired_tiles(rows), 1);
  for (const int64_t rows : {289, 512, 544}) EXPECT_EQ(kernels::grouped_paired_tiles(rows), 2);
  EXPECT_EQ(kernels::grouped_paired_tiles(545), 3);
  // However 1000 rows fall on 3 experts, there is room for their tiles.
  const int64_t most = kernels::grouped_tiles_max(1000, 3, true);
  for (int64_t a = 0; a <= 1000; ++a) {
    for (int64_t b = 0; a + b <= 1000; b += 7) {
      int64_t tiles = 0;
      for (const int64_t rows : {a, b, 1000 - a - b})
        tiles += rows > 0 ? 2 * kernels::grouped_paired_tiles(rows) : 0;
      ASSERT_LE(tiles, most) << a << ", " << b;
    }
  }
}

}  // namespace
}  // namespace fathom
