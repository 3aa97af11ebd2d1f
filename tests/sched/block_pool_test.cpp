// States of blocks, and the order of eviction.
#include "sched/block_pool.h"

#include <gtest/gtest.h>

#include <set>

namespace fathom {
namespace {

TEST(BlockPool, HandsOutEveryBlockButThePadding) {
  BlockPool pool(5);
  EXPECT_EQ(pool.total(), 4);
  std::set<BlockId> blocks;
  while (pool.available() > 0) blocks.insert(pool.allocate().block);
  EXPECT_EQ(blocks, (std::set<BlockId>{1, 2, 3, 4}));
  EXPECT_EQ(pool.used_count(), 4);
}

TEST(BlockPoolDeathTest, AllocationBeyondTheLastEndsTheProcess) {
  BlockPool pool(2);
  (void)pool.allocate();
  EXPECT_DEATH((void)pool.allocate(), "exhausted");
}

TEST(BlockPoolDeathTest, ASecondReleaseEndsTheProcess) {
  BlockPool pool(3);
  const BlockId block = pool.allocate().block;
  pool.release(block);
  EXPECT_DEATH(pool.release(block), "not used");
}

TEST(BlockPool, CountsReferences) {
  BlockPool pool(3);
  const BlockId block = pool.allocate().block;
  pool.add_reference(block);
  pool.release(block);
  EXPECT_EQ(pool.references(block), 1);
  EXPECT_EQ(pool.available(), 1);
  pool.release(block);
  EXPECT_EQ(pool.available(), 2);
}

TEST(BlockPool, EvictsTheLeastRecentlyUsedAndSaysWhose) {
  BlockPool pool(4);
  BlockId blocks[3];
  for (BlockId& b : blocks) b = pool.allocate().block;
  for (CacheEntryId i = 0; i < 3; ++i) pool.set_entry(blocks[i], i + 10);
  for (BlockId b : blocks) pool.release(b);
  EXPECT_EQ(pool.cached_count(), 3);
  EXPECT_EQ(pool.available(), 3) << "cached blocks can be had";
  // A hit makes the first the most recently used.
  pool.add_reference(blocks[0]);
  EXPECT_EQ(pool.cached_count(), 2);
  pool.release(blocks[0]);
  const BlockPool::Allocation first = pool.allocate();
  EXPECT_EQ(first.block, blocks[1]);
  EXPECT_EQ(first.evicted, 11U);
  EXPECT_EQ(pool.allocate().evicted, 12U);
  EXPECT_EQ(pool.allocate().evicted, 10U);
}

TEST(BlockPool, PrefersFreeBlocksToCachedOnes) {
  BlockPool pool(3);
  const BlockId cached = pool.allocate().block;
  pool.set_entry(cached, 7);
  pool.release(cached);
  const BlockPool::Allocation made = pool.allocate();
  EXPECT_NE(made.block, cached);
  EXPECT_FALSE(made.evicted);
}

TEST(BlockPool, AForgottenBlockIsFree) {
  BlockPool pool(3);
  const BlockId block = pool.allocate().block;
  pool.set_entry(block, 7);
  pool.release(block);
  pool.clear_entry(block);
  EXPECT_EQ(pool.cached_count(), 0);
  EXPECT_EQ(pool.available(), 2);
  EXPECT_TRUE(pool.find_broken_invariant({0, 0, 0}).is_ok());
}

TEST(BlockPool, FindsReferencesThatNobodyHolds) {
  BlockPool pool(3);
  const BlockId block = pool.allocate().block;
  std::vector<int32_t> held(3, 0);
  EXPECT_FALSE(pool.find_broken_invariant(held).is_ok());
  held[block] = 1;
  EXPECT_TRUE(pool.find_broken_invariant(held).is_ok());
}

}  // namespace
}  // namespace fathom
