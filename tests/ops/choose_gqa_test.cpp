// How grouped decode attention is cut over a GPU.
#include "ops/cuda/choose_gqa.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace fathom {
namespace {

// Llama-8B's layer, sequences of up to 32,768 tokens.
GqaProblem llama(int32_t rows) {
  GqaProblem p;
  p.rows = rows;
  p.heads = 32;
  p.kv_heads = 8;
  p.head_dims = 128;
  p.blocks_max = 512;
  return p;
}

TEST(ChooseGqa, PacksTheHeadsOfAKeyHead) {
  const kernels::GqaDecodePlan one = choose_gqa_decode(llama(1));
  EXPECT_EQ(one.pair_tile, 8);
  EXPECT_EQ(one.tiles, 1);
  EXPECT_EQ(one.pairs, 4) << "four query heads; the tile's other columns are not kept";
  EXPECT_EQ(one.blocks, 264) << "two blocks of threads a multiprocessor";
  EXPECT_EQ(one.segments_max, 16);

  GqaProblem verify = llama(4);
  verify.query_tokens_max = 4;
  const kernels::GqaDecodePlan four = choose_gqa_decode(verify);
  EXPECT_EQ(four.pair_tile, 16);
  EXPECT_EQ(four.tiles, 1);
  EXPECT_EQ(four.blocks, 132);
  verify.query_tokens_max = 5;
  EXPECT_EQ(choose_gqa_decode(verify).tiles, 2);
}

TEST(ChooseGqa, StartsNoMoreBlocksThanThereAreChunks) {
  GqaProblem p = llama(1);
  p.blocks_max = 3;  // 192 tokens: two chunks of 128 for each of 8 key heads, nearly
  EXPECT_EQ(choose_gqa_decode(p).blocks, 12);
}

TEST(ChooseGqa, GivesEachKeyHeadOfFewRowsSeveralBlocks) {
  GqaProblem p = llama(1);
  p.alone = true;
  const kernels::GqaDecodePlan one = choose_gqa_decode(p);
  EXPECT_TRUE(one.few);
  EXPECT_EQ(one.blocks, 8 * 16);
  p.rows = 2;
  EXPECT_TRUE(choose_gqa_decode(p).few);
  EXPECT_EQ(choose_gqa_decode(p).blocks, 16 * 8) << "at most one a multiprocessor";
  p.rows = 3;
  EXPECT_FALSE(choose_gqa_decode(p).few);
  EXPECT_EQ(choose_gqa_decode(p).blocks, 264);
  p.rows = 1;
  p.query_tokens_max = 2;
  EXPECT_FALSE(choose_gqa_decode(p).few) << "drafts";
  p.query_tokens_max = 1;
  p.heads = 16 * p.kv_heads;
  EXPECT_FALSE(choose_gqa_decode(p).few) << "more heads than a tile has columns";
  p = llama(1);
  EXPECT_FALSE(choose_gqa_decode(p).few) << "prompts in the same step";
}

TEST(ChooseGqa, GivesFewRowsBetweenBf16ProductsBlocksThatFindPlacesBesideThem) {
  GqaProblem p = llama(1);
  p.alone = true;
  p.bf16_products = true;
  EXPECT_TRUE(choose_gqa_decode(p).few);
  EXPECT_EQ(choose_gqa_decode(p).blocks, 8 * 10);
  p.rows = 2;
  EXPECT_TRUE(choose_gqa_decode(p).few);
  EXPECT_EQ(choose_gqa_decode(p).blocks, 16 * 8) << "never under eight for a key head";
  p.rows = 1;
  p.heads = 28;
  p.kv_heads = 4;
  EXPECT_EQ(choose_gqa_decode(p).blocks, 4 * 16) << "no more than a segment has chunks";
}

// Of rows with 8 key heads and that many granules.
kernels::GqaStreams streams_of(const std::vector<int32_t>& granules) {
  kernels::GqaStreams s;
  s.shortest = INT32_MAX;
  for (const int32_t n : granules) {
    s.count += 8;
    s.all += 8 * n;
    s.shortest = std::min(s.shortest, n);
    s.longest = std::max(s.longest, n);
  }
  return s;
}

bool whole(int32_t rows, int32_t shortest, int32_t longest) {
  std::vector<int32_t> granules;
  for (int32_t i = 0; i < rows; ++i)
    granules.push_back(shortest + (longest - shortest) * i / std::max(rows - 1, 1));
  return kernels::takes_whole_streams(streams_of(granules), 264);
}

TEST(ChooseGqa, TakesWholeStreamsWhereBlocksEndTogether) {
  EXPECT_TRUE(whole(32, 32, 32)) << "one a block, 8 blocks without";
  EXPECT_FALSE(whole(31, 32, 32)) << "16 without are too many";
  EXPECT_FALSE(whole(32, 32, 40)) << "the longest alone is more than a block's part";
  EXPECT_TRUE(whole(128, 32, 32)) << "four";
  EXPECT_TRUE(whole(128, 30, 36));
  EXPECT_FALSE(whole(128, 20, 40)) << "the fourth may be a long one";
  EXPECT_FALSE(whole(144, 32, 32)) << "4.4";
  EXPECT_TRUE(whole(256, 35, 43)) << "eight";
  EXPECT_TRUE(whole(512, 32, 63)) << "16";
  EXPECT_TRUE(whole(430, 44, 52)) << "13.03: one of many more";
  EXPECT_FALSE(whole(512, 8, 120)) << "of many lengths";
  EXPECT_FALSE(whole(1, 1024, 1024));
  EXPECT_FALSE(whole(0, 0, 0));
}

TEST(ChooseGqa, LeavesOtherShapesToThePlainKernel) {
  const auto refused = [](auto change) {
    GqaProblem p = llama(8);
    change(p);
    return choose_gqa_decode(p).pair_tile == 0;
  };
  EXPECT_FALSE(refused([](GqaProblem& p) { p.head_dims = 64; }));
  EXPECT_TRUE(refused([](GqaProblem& p) { p.head_dims = 256; }));
  EXPECT_TRUE(refused([](GqaProblem& p) { p.bf16 = false; }));
  EXPECT_TRUE(refused([](GqaProblem& p) { p.hopper = false; }));
  EXPECT_TRUE(refused([](GqaProblem& p) { p.block_tokens = 16; }));
  EXPECT_TRUE(refused([](GqaProblem& p) { p.rows = 0; }));
  EXPECT_TRUE(refused([](GqaProblem& p) { p.rows = kernels::kGqaRowsMax + 1; }));
  EXPECT_TRUE(refused([](GqaProblem& p) {
    p.rows = 1024;
    p.kv_heads = 32;
    p.blocks_max = 32768;
  })) << "more work than 32 bits count";
}

}  // namespace
}  // namespace fathom
