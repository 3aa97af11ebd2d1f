// The chooser of MLA decode kernels: shapes to kernels, tiles and parts. Needs no GPU.
#include "kernels/mla_decode_config.h"

#include <cstdlib>

#include <gtest/gtest.h>

#include "kernels/mla_cuts.h"

namespace fathom::kernels {
namespace {

MlaDecodeConfig choose(int32_t rows, int32_t query_tokens, int32_t heads) {
  MlaDecodeDesc desc;
  desc.rows = rows;
  desc.query_tokens_max = query_tokens;
  desc.heads = heads;
  return choose_mla_decode(desc);
}

TEST(MlaDecodeConfig, SixteenHeadsFillOneNarrowTile) {
  const MlaDecodeConfig c = choose(128, 1, 16);
  EXPECT_EQ(c.kind, MlaDecodeKind::kNarrow);
  EXPECT_EQ(c.tile_pairs, 16);
  EXPECT_EQ(c.tiles, 1);
  EXPECT_EQ(c.parts, 132);
  EXPECT_EQ(c.blocks(), 132);
  EXPECT_FALSE(c.few_rows);
}

TEST(MlaDecodeConfig, DraftsAndFewHeadsShareATile) {
  EXPECT_EQ(choose(8, 2, 4).tile_pairs, 16);
  EXPECT_EQ(choose(8, 2, 16).tile_pairs, 32);
  const MlaDecodeConfig four_tokens = choose(8, 4, 16);
  EXPECT_EQ(four_tokens.kind, MlaDecodeKind::kNarrow);
  EXPECT_EQ(four_tokens.tiles, 2);
  EXPECT_EQ(four_tokens.parts, 66);
}

TEST(MlaDecodeConfig, ManyHeadsTakeWideTilesInPairs) {
  const MlaDecodeConfig c = choose(64, 1, 128);
  EXPECT_EQ(c.kind, MlaDecodeKind::kWide);
  EXPECT_EQ(c.tile_pairs, 64);
  EXPECT_EQ(c.tiles, 2);
  EXPECT_EQ(c.cluster, 2);
  EXPECT_EQ(c.parts, 66);
  EXPECT_EQ(choose(64, 1, 160).cluster, 1);  // three tiles do not pair
}

// Every tile count that can occur: the grid never exceeds the GPU by more than one sequence's
// tiles. Where parts are cut anywhere, partial results have a place for every block's two cut ends.
TEST(MlaDecodeConfig, CoversEveryPairAndHoldsEveryPartialResult) {
  for (int32_t heads = 4; heads <= 256; heads += 4) {
    for (int32_t tokens = 1; tokens <= 8; ++tokens) {
      const MlaDecodeConfig c = choose(32, tokens, heads);
      ASSERT_NE(c.kind, MlaDecodeKind::kPlain);
      EXPECT_GE(c.tiles * c.tile_pairs, heads * tokens);
      EXPECT_LT((c.tiles - 1) * c.tile_pairs, heads * tokens);
      EXPECT_LE(c.blocks(), 132);
      EXPECT_EQ(c.blocks() % c.cluster, 0);
      EXPECT_EQ(c.fixed_cuts, heads * tokens <= 64);
      EXPECT_EQ(c.partial_pairs(), int64_t{c.fixed_cuts ? 12 : 2} * c.blocks() * c.tile_pairs);
    }
  }
}

// Stretches follow one another without a gap, their numbers too, and rounding keeps to them.
TEST(MlaCuts, StretchesTileASequence) {
  int32_t begin = 0;
  int32_t number = 0;
  for (int32_t block = 0; block < 4096; ++block) {
    if (block == mla_cut_after(begin)) {
      begin = block;
      ++number;
    }
    ASSERT_EQ(mla_cut_before(block), begin);
    ASSERT_EQ(mla_stretch_number(block), number);
    ASSERT_EQ(mla_cut_after(block), begin + mla_stretch(begin));
    const int32_t near = mla_nearest_cut(block);
    ASSERT_EQ(mla_cut_before(near), near);
    ASSERT_LE(2 * std::abs(near - block), mla_stretch(block));
  }
  EXPECT_EQ(mla_stretch_number(512 * 1024 / 64 - 1), 315);  // fits a row's partial results
}

TEST(MlaDecodeConfig, Fp8EntriesTakeTilesOfSixteen) {
  MlaDecodeDesc desc;
  desc.rows = 8;
  desc.heads = 16;
  desc.query_tokens_max = 2;
  desc.fp8_cache = true;
  EXPECT_EQ(choose_mla_decode(desc).tile_pairs, 16);
  EXPECT_EQ(choose_mla_decode(desc).tiles, 2);
  desc.heads = 128;
  EXPECT_EQ(choose_mla_decode(desc).kind, MlaDecodeKind::kPlain);
}

TEST(MlaDecodeConfig, OtherShapesStayOnThePlainKernel) {
  MlaDecodeDesc desc;
  desc.rows = 8;
  desc.heads = 16;
  desc.bf16 = false;
  EXPECT_EQ(choose_mla_decode(desc).kind, MlaDecodeKind::kPlain);
  desc.bf16 = true;
  desc.block_tokens = 16;
  EXPECT_EQ(choose_mla_decode(desc).kind, MlaDecodeKind::kPlain);
  desc.block_tokens = 64;
  desc.kv_lora = 256;
  EXPECT_EQ(choose_mla_decode(desc).kind, MlaDecodeKind::kPlain);
  EXPECT_EQ(choose(0, 1, 16).kind, MlaDecodeKind::kPlain);
  EXPECT_EQ(choose(kMlaRowsMax + 1, 1, 16).kind, MlaDecodeKind::kPlain);
}

}  // namespace
}  // namespace fathom::kernels
