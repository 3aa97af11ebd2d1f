// Which prefill rows the tensor cores take, and how they are cut. Needs no GPU.
#include "kernels/prefill_config.h"

#include <gtest/gtest.h>

namespace fathom::kernels {
namespace {

MlaPrefillDesc desc(int32_t rows, int64_t tokens, int32_t context, int32_t heads) {
  MlaPrefillDesc d;
  d.rows = rows;
  d.tokens = tokens;
  d.context_tokens_max = context;
  d.heads = heads;
  return d;
}

TEST(PrefillConfig, EveryDivisionOfTokensHasRoomForItsTiles) {
  for (int32_t rows = 1; rows <= 5; ++rows) {
    for (int32_t each = 1; each <= 300; ++each) {
      const int32_t uneven = each * rows + 129;  // one row has 129 more
      const int32_t needed = (rows - 1) * ((each + 127) / 128) + (each + 129 + 127) / 128;
      EXPECT_LE(needed, prefill_tiles_max(rows, uneven));
    }
  }
}

TEST(PrefillConfig, TakesHeadsOf64And128) {
  EXPECT_TRUE(gqa_prefill_fits({32, 8, 128, 64, true}));
  EXPECT_TRUE(gqa_prefill_fits({9, 3, 64, 64, true}));
  EXPECT_FALSE(gqa_prefill_fits({32, 8, 128, 16, true}));
  EXPECT_FALSE(gqa_prefill_fits({32, 8, 96, 64, true}));
  EXPECT_FALSE(gqa_prefill_fits({32, 8, 128, 64, false}));
  EXPECT_FALSE(gqa_prefill_fits({32, 5, 128, 64, true}));
}

TEST(PrefillConfig, AShortPromptIsOneSliceOfItsOwnSize) {
  const MlaPrefillPlan p = plan_mla_prefill(desc(1, 1000, 1000, 16));
  ASSERT_TRUE(p.fits);
  EXPECT_EQ(p.heads, 16);
  EXPECT_EQ(p.slices, 1);
  EXPECT_EQ(p.slice_tiles, 8);
  EXPECT_EQ(p.query_tiles, 8);
  EXPECT_EQ(p.carry_floats(), 0);
}

TEST(PrefillConfig, ALongContextIsSlicedWithinItsBytes) {
  const MlaPrefillPlan p = plan_mla_prefill(desc(1, 2048, 65536, 16));
  EXPECT_EQ(p.slice_tokens(), 16384);
  EXPECT_EQ(p.slices, 4);
  EXPECT_LE(p.expanded_numbers() * 2, kPrefillSliceBytes);
  EXPECT_EQ(p.carry_floats(), int64_t{17} * 16 * kPrefillCarryFloats);
}

TEST(PrefillConfig, ManyHeadsGoInGroups) {
  const MlaPrefillPlan p = plan_mla_prefill(desc(2, 4096, 8192, 128));
  EXPECT_EQ(p.heads, 16);
  EXPECT_EQ(128 % p.heads, 0);
  EXPECT_EQ(p.slices * p.slice_tiles, 128);
}

TEST(PrefillConfig, ManyRowsCarryWithinTheirBytes) {
  const MlaPrefillPlan p = plan_mla_prefill(desc(128, 8192, 65536, 16));
  EXPECT_LE(p.carry_floats() * 4, kPrefillCarryBytes);
  EXPECT_EQ(16 % p.heads, 0);
}

TEST(PrefillConfig, LeavesOtherShapesToThePlainKernels) {
  MlaPrefillDesc d = desc(1, 10, 10, 16);
  d.kv_lora = 256;
  EXPECT_FALSE(plan_mla_prefill(d).fits);
  d = desc(1, 10, 10, 16);
  d.block_tokens = 16;
  EXPECT_FALSE(plan_mla_prefill(d).fits);
  d = desc(1, 10, 10, 16);
  d.bf16 = false;
  EXPECT_FALSE(plan_mla_prefill(d).fits);
}

// Slices cover every tile of every row, whatever the budget.
TEST(PrefillConfig, SlicesCoverTheContext) {
  for (int64_t bytes = int64_t{1} << 20; bytes <= int64_t{1} << 30; bytes *= 2) {
    for (int32_t context = 1; context < 100000; context = context * 3 + 1) {
      const MlaPrefillPlan p = plan_mla_prefill(desc(3, 64, context, 16), bytes);
      EXPECT_GE(int64_t{p.slices} * p.slice_tiles, int64_t{3} * ((context + 127) / 128));
      EXPECT_GE(p.slice_tiles, 1);
    }
  }
}

}  // namespace
}  // namespace fathom::kernels
