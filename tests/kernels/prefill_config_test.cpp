// Which prefill rows the tensor cores take, and how they are cut. Needs no GPU.
#include "kernels/prefill_config.h"

#include <gtest/gtest.h>

#include "fathom/fp8_cache.h"
#include "ops/cuda/cuda_scratch.h"

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
  EXPECT_EQ(p.slice_tokens(), 132 * 128) << "a round of the GPU";
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

GqaPrefillDesc fp8_heads(int32_t heads, int32_t kv_heads, int32_t head_dims) {
  return {heads, kv_heads, head_dims, 64, true, true};
}

TEST(PrefillConfig, EntriesOfShortContextsAreSpreadAtOnce) {
  const GqaSpreadPlan p = plan_gqa_spread(fp8_heads(32, 8, 128), 3, 2000, 1000);
  EXPECT_EQ(p.kv_heads, 8);
  EXPECT_EQ(p.heads, 32);
  EXPECT_EQ(p.slices, 1);
  EXPECT_EQ(p.slice_tiles, 24);
  EXPECT_EQ(p.query_tiles, 18);
  EXPECT_EQ(p.spread_numbers(), int64_t{24} * 128 * 2 * 8 * 128);
  EXPECT_EQ(p.carry_floats(), 0);
}

TEST(PrefillConfig, EntriesOfLongContextsAreSpreadInSlices) {
  const GqaSpreadPlan p = plan_gqa_spread(fp8_heads(32, 8, 128), 1, 2048, 131072);
  EXPECT_EQ(p.kv_heads, 8);
  EXPECT_EQ(p.slice_tokens(), 33792);
  EXPECT_EQ(p.slices, 4);
  EXPECT_EQ(p.spread_numbers() * 2, kPrefillSliceBytes);
  EXPECT_EQ(p.carry_floats(), int64_t{17} * 32 * kPrefillCarryFloats);
  // A larger step carries more: its heads go in groups.
  const GqaSpreadPlan many = plan_gqa_spread(fp8_heads(32, 8, 128), 1, 8192, 131072);
  EXPECT_EQ(many.kv_heads, 4);
  EXPECT_EQ(many.heads, 16);
  EXPECT_EQ(many.slice_tokens(), 67584);
  EXPECT_LE(many.carry_floats() * 4, kPrefillCarryBytes);
}

// What a step of prompts over an e4m3 cache takes in the op is in the workspace that is planned.
TEST(PrefillConfig, ThePlannerCountsSpreadEntries) {
  struct Model {
    int32_t heads, kv_heads, dims;
  };
  const CudaScratch scratch(Numerics::kNative, 132);
  for (const Model m :
       {Model{32, 8, 128}, Model{28, 4, 128}, Model{9, 3, 64}, Model{32, 32, 128}}) {
    for (const int32_t rows : {1, 4, 64, 300}) {
      for (const int32_t tokens : {512, 8192}) {
        for (const int32_t context : {700, 9000, 131072}) {
          const Fp8HeadsLayout layout{m.kv_heads, m.dims, 64};
          BatchView batch;
          batch.shape.rows = rows;
          batch.shape.tokens = tokens;
          batch.shape.prefill_tokens_max = tokens;
          batch.shape.context_tokens_max = context;
          GqaParams p;
          p.heads = m.heads;
          p.kv_heads = m.kv_heads;
          p.head_dims = m.dims;
          KvView cache;
          cache.cache = Tensor::of(nullptr, DType::kF8E4M3, {2, 64, layout.entry_bytes()});
          const GqaSpreadPlan plan =
              plan_gqa_spread(fp8_heads(m.heads, m.kv_heads, m.dims), rows, tokens, context);
          const int64_t queries = int64_t{tokens} * m.heads * m.dims * 2;
          EXPECT_LE(plan.spread_numbers() * 2 + plan.carry_floats() * 4 + queries,
                    scratch.gqa(batch, cache, p))
              << m.heads << " heads, " << rows << " rows, context " << context;
        }
      }
    }
  }
}

// Slices cover every tile of every row, whatever the budget.
TEST(PrefillConfig, SlicesCoverTheContext) {
  for (int64_t bytes = int64_t{1} << 20; bytes <= int64_t{1} << 30; bytes *= 2) {
    for (int32_t context = 1; context < 100000; context = context * 3 + 1) {
      const MlaPrefillPlan p = plan_mla_prefill(desc(3, 64, context, 16), bytes);
      EXPECT_GE(int64_t{p.slices} * p.slice_tiles, int64_t{3} * ((context + 127) / 128));
      EXPECT_GE(p.slice_tiles, 1);
      int64_t tiles = 0;
      for (int32_t slice = 0; slice < p.slices; ++slice) {
        EXPECT_GE(p.tiles_of(slice), 1);
        tiles += p.tiles_of(slice);
      }
      EXPECT_EQ(tiles, p.tiles);
    }
  }
}

// One row of a long context beside many of short ones.
TEST(PrefillConfig, KnownContextsTakeNoMoreSlicesThanTheyFill) {
  MlaPrefillDesc d = desc(8, 8 * 64, 32'768 + 64, 16);
  EXPECT_EQ(plan_mla_prefill(d).slices, (8 * 257 + 131) / 132);
  d.context_tokens = 32'768 + 64 + 7 * 64;
  EXPECT_EQ(plan_mla_prefill(d).slices, 3);
  EXPECT_GE(plan_mla_prefill(d).tiles, 257 + 7);
}

TEST(PrefillConfig, ExpandsAShortSliceOnManyBlocks) {
  EXPECT_EQ(choose_expand_parts(132, 132, 32), 1);
  EXPECT_EQ(choose_expand_parts(64, 132, 32), 2);
  EXPECT_EQ(choose_expand_parts(1, 132, 32), 32);
  for (int32_t tiles = 1; tiles <= 132; ++tiles) {
    const int32_t parts = choose_expand_parts(tiles, 132, 32);
    EXPECT_GE(parts, 1);
    EXPECT_LE(parts, 32);
    const int32_t rounds = (tiles * parts + 131) / 132;
    EXPECT_LE(rounds * (1.0 / parts + 0.03), 1.03 + 1e-9);
  }
}

TEST(PrefillConfig, FewQueriesShareALongContextAmongBlocks) {
  MlaPrefillDesc d = desc(1, 256, 32'768 + 256, 16);
  EXPECT_EQ(plan_mla_prefill(d).splits, 1) << "unless it may";
  d.may_split = true;
  EXPECT_EQ(plan_mla_prefill(d).splits, 4) << "two tiles of 16 heads";
  d.tokens = 16;
  EXPECT_EQ(plan_mla_prefill(d).splits, 8);
  d.tokens = 8192;
  EXPECT_EQ(plan_mla_prefill(d).splits, 1) << "enough of them";
  d.tokens = 16;
  d.context_tokens_max = 1024;
  EXPECT_EQ(plan_mla_prefill(d).splits, 1) << "a context of eight tiles";
}

TEST(PrefillConfig, SplitsStayWithinTheirBytes) {
  for (int32_t tokens = 1; tokens < 4096; tokens = tokens * 3 / 2 + 1) {
    for (const int32_t rows : {1, 3, 40}) {
      MlaPrefillDesc d = desc(rows, tokens, 50'000, 16);
      const int64_t alone = plan_mla_prefill(d).carry_floats() * 4;
      d.may_split = true;
      const MlaPrefillPlan p = plan_mla_prefill(d);
      EXPECT_GE(p.splits, 1);
      EXPECT_LE(p.carry_floats() * 4, std::max(alone, kPrefillSplitBytes));
    }
  }
}

}  // namespace
}  // namespace fathom::kernels
