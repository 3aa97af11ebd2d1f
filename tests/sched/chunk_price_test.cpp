// What chunks of prompts cost, and how many tokens a price buys.
#include "sched/chunk_price.h"

#include <gtest/gtest.h>

namespace fathom {
namespace {

TEST(ChunkPrice, CountsEveryPair) {
  const PromptWork work = ChunkShape{}.work(10, 100);
  EXPECT_DOUBLE_EQ(work.tokens, 10.0);
  EXPECT_DOUBLE_EQ(work.pairs, 1050.0);
}

// A long chunk shares the making of keys from latents.
TEST(ChunkPrice, LaterTokensOfALatentChunkAreCheaper) {
  EXPECT_DOUBLE_EQ(kLatentChunks.work(64, 32'768).pairs, ChunkShape{}.work(64, 32'768).pairs);
  EXPECT_DOUBLE_EQ(kLatentChunks.work(192 + 100, 0).pairs, (192 + 30) * 146.0);
}

TEST(ChunkPrice, BuysTheMostTokens) {
  const ChunkPrices prices{500.0, 8.0, 0.002};
  for (const ChunkShape& shape : {ChunkShape{}, kLatentChunks}) {
    int32_t before = 1 << 20;
    for (const int32_t context : {0, 1000, 8000, 32'000, 128'000}) {
      const int32_t n = tokens_within(8000.0, prices, shape, context, 1 << 20);
      EXPECT_LE(prices.us(shape.work(n, context)), 8000.0);
      EXPECT_GT(prices.us(shape.work(n + 1, context)), 8000.0);
      EXPECT_LT(n, before) << "a longer context leaves room for fewer";
      before = n;
    }
  }
}

TEST(ChunkPrice, KnowsBounds) {
  const ChunkPrices prices{500.0, 8.0, 0.002};
  EXPECT_EQ(tokens_within(8000.0, prices, {}, 0, 100), 100);
  EXPECT_EQ(tokens_within(8000.0, prices, {}, 0, 0), 0);
  EXPECT_EQ(tokens_within(7.0, prices, {}, 0, 100), 0);
  EXPECT_EQ(tokens_within(-5.0, prices, {}, 0, 100), 0);
}

}  // namespace
}  // namespace fathom
