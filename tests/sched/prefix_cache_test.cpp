// Matching and remembering prefixes: identity, collisions, eviction, windows.
#include "sched/prefix_cache.h"

#include <gtest/gtest.h>

#include "sched/kv_blocks.h"

namespace fathom {
namespace {

constexpr int32_t kBlock = 4;

KvLayout layout(std::vector<std::optional<int32_t>> windows) {
  KvLayout l;
  l.block_tokens = kBlock;
  for (const auto& w : windows) l.groups.emplace_back().window_tokens = w;
  return l;
}

BlockHash keyed() { return keyed_block_hash(KeyedHasher::Key{}); }
BlockHash constant_hash() {
  return [](std::span<const std::byte>) { return Hash128{1, 2}; };
}

std::vector<TokenId> prompt(int32_t blocks, TokenId first = 0) {
  std::vector<TokenId> tokens;
  for (int32_t i = 0; i < blocks * kBlock; ++i) tokens.push_back(first + i);
  return tokens;
}

// A cache with the blocks of one finished sequence in it.
struct Cache {
  Cache(std::vector<std::optional<int32_t>> windows, BlockHash hash, int32_t blocks = 17)
      : kv(layout(windows), std::vector<int32_t>(windows.size(), blocks), 0, std::move(hash)) {}

  // Computes `tokens` in new blocks, remembers them, and gives them back, last first.
  void fill(uint64_t tenant, const std::vector<TokenId>& tokens) {
    const auto count = static_cast<int32_t>(tokens.size()) / kBlock;
    std::vector<Hash128> hashes;
    kv.cache().extend_hashes(tenant, tokens, count, hashes);
    std::vector<std::vector<BlockId>> held(count, std::vector<BlockId>(kv.groups()));
    PrefixCache::Serial parent = PrefixCache::kRoot;
    for (int32_t b = 0; b < count; ++b) {
      for (int32_t g = 0; g < kv.groups(); ++g) held[b][g] = kv.allocate(g);
      const std::span<const TokenId> block(tokens.data() + size_t(b) * kBlock, kBlock);
      parent = kv.remember(hashes[b], parent, tenant, block, held[b]);
    }
    for (int32_t b = count - 1; b >= 0; --b) {
      for (int32_t g = 0; g < kv.groups(); ++g) kv.release(g, held[b][g]);
    }
  }

  int32_t hit(uint64_t tenant, const std::vector<TokenId>& tokens) {
    const auto count = static_cast<int32_t>(tokens.size()) / kBlock;
    std::vector<Hash128> hashes;
    kv.cache().extend_hashes(tenant, tokens, count, hashes);
    kv.match(tenant, tokens, hashes, count, found);
    return found.blocks;
  }

  bool is_sound() {
    std::vector<std::vector<int32_t>> none;
    for (int32_t g = 0; g < kv.groups(); ++g) none.emplace_back(kv.pool(g).total() + 1, 0);
    return kv.find_broken_invariant(none).is_ok();
  }

  KvBlocks kv;
  PrefixMatch found;
};

TEST(PrefixCache, FindsTheLongestCommonPrefixInWholeBlocks) {
  Cache c({std::nullopt}, keyed());
  c.fill(1, prompt(4));
  EXPECT_EQ(c.hit(1, prompt(4)), 4);
  EXPECT_EQ(c.hit(1, prompt(6)), 4);
  EXPECT_EQ(c.hit(1, prompt(2)), 2);
  std::vector<TokenId> other = prompt(4);
  other[9] = 999;
  EXPECT_EQ(c.hit(1, other), 2);
}

TEST(PrefixCache, TheSameTokensAfterAnotherPrefixAreAMiss) {
  Cache c({std::nullopt}, keyed());
  c.fill(1, prompt(2));
  EXPECT_EQ(c.hit(1, prompt(1, kBlock)), 0) << "the second block's tokens, as a first block";
}

TEST(PrefixCache, TenantsShareNothing) {
  Cache c({std::nullopt}, keyed());
  c.fill(1, prompt(3));
  EXPECT_EQ(c.hit(2, prompt(3)), 0);
  EXPECT_EQ(c.hit(1, prompt(3)), 3);
}

TEST(PrefixCache, AnotherKeyOrLayoutNamesBlocksDifferently) {
  PrefixCache a(kBlock, 1, 0, keyed());
  PrefixCache b(kBlock, 1, 1, keyed());
  KeyedHasher::Key key{};
  key[0] = std::byte{1};
  PrefixCache c(kBlock, 1, 0, keyed_block_hash(key));
  std::vector<Hash128> ha;
  std::vector<Hash128> hb;
  std::vector<Hash128> hc;
  a.extend_hashes(1, prompt(1), 1, ha);
  b.extend_hashes(1, prompt(1), 1, hb);
  c.extend_hashes(1, prompt(1), 1, hc);
  EXPECT_NE(ha[0], hb[0]);
  EXPECT_NE(ha[0], hc[0]);
}

TEST(PrefixCache, ACollisionIsAMiss) {
  Cache c({std::nullopt}, constant_hash());
  c.fill(1, prompt(1));
  EXPECT_EQ(c.hit(1, prompt(1)), 1) << "equal in everything: a hit";
  EXPECT_EQ(c.hit(1, prompt(1, 50)), 0) << "other tokens under the same hash";
  EXPECT_EQ(c.hit(2, prompt(1)), 0) << "another tenant under the same hash";
}

TEST(PrefixCache, ACollidingBlockReplacesTheOlderAndItsBlocksAreNotLost) {
  Cache c({std::nullopt}, constant_hash());
  c.fill(1, prompt(1));
  c.fill(1, prompt(1, 50));
  EXPECT_EQ(c.hit(1, prompt(1)), 0);
  EXPECT_EQ(c.hit(1, prompt(1, 50)), 1);
  EXPECT_EQ(c.kv.pool(0).cached_count(), 1);
  EXPECT_EQ(c.kv.pool(0).available(), 16);
  EXPECT_TRUE(c.is_sound());
}

TEST(PrefixCache, AnEvictedParentIsNotMistakenForItsSuccessor) {
  // The hash sees only the last token of a block: 3 for both first blocks, 7 for the second.
  const BlockHash last_token = [](std::span<const std::byte> bytes) {
    return Hash128{static_cast<uint64_t>(bytes[bytes.size() - 4]), 0};
  };
  Cache c({std::nullopt}, last_token);
  c.fill(1, {0, 1, 2, 3, 4, 5, 6, 7});
  // Another first block takes the parent's place under its hash; the child stays.
  c.fill(1, {9, 9, 9, 3});
  EXPECT_EQ(c.hit(1, {9, 9, 9, 3, 4, 5, 6, 7}), 1) << "the child belongs to the former parent";
  EXPECT_TRUE(c.is_sound());
}

TEST(PrefixCache, EvictionTakesTheEndOfAChainFirst) {
  Cache c({std::nullopt}, keyed(), 5);
  c.fill(1, prompt(4));
  (void)c.kv.allocate(0);
  EXPECT_EQ(c.hit(1, prompt(4)), 3);
  (void)c.kv.allocate(0);
  EXPECT_EQ(c.hit(1, prompt(4)), 2);
}

TEST(PrefixCache, TakingAMatchKeepsItFromEviction) {
  Cache c({std::nullopt}, keyed(), 5);
  c.fill(1, prompt(2));
  ASSERT_EQ(c.hit(1, prompt(2)), 2);
  EXPECT_EQ(c.kv.unreferenced(c.found, 0), 2);
  for (int32_t b = 0; b < 2; ++b) (void)c.kv.take(c.found, 0, b);
  EXPECT_EQ(c.kv.unreferenced(c.found, 0), 0);
  (void)c.kv.allocate(0);
  (void)c.kv.allocate(0);
  EXPECT_EQ(c.kv.pool(0).available(), 0);
  EXPECT_EQ(c.hit(1, prompt(2)), 2);
}

TEST(PrefixCache, AHitEndsWhereEveryGroupCanContinue) {
  // A window of five tokens reaches two blocks back.
  Cache c({std::nullopt, 5}, keyed());
  c.fill(1, prompt(6));
  EXPECT_EQ(c.kv.window_blocks(1), 2);
  EXPECT_EQ(c.hit(1, prompt(6)), 6);
  EXPECT_EQ(c.kv.first_needed(1, 6), 4);
  // Block 4 of the window group goes: 6 and 5 need it, 4 needs blocks 2 and 3.
  c.kv.release_forgotten(1, c.kv.take(c.found, 1, 4));
  EXPECT_EQ(c.hit(1, prompt(6)), 4);
  EXPECT_TRUE(c.is_sound());
}

TEST(PrefixCache, AGrowingGroupNeedsEveryBlock) {
  Cache c({std::nullopt, std::nullopt}, keyed());
  c.fill(1, prompt(4));
  ASSERT_EQ(c.hit(1, prompt(4)), 4);
  c.kv.release_forgotten(1, c.kv.take(c.found, 1, 1));
  EXPECT_EQ(c.hit(1, prompt(4)), 1);
}

TEST(PrefixCache, AMissingGroupIsFilledInAgain) {
  Cache c({std::nullopt, 8}, keyed());
  c.fill(1, prompt(3));
  ASSERT_EQ(c.hit(1, prompt(3)), 3);
  c.kv.release_forgotten(1, c.kv.take(c.found, 1, 2));
  EXPECT_EQ(c.hit(1, prompt(3)), 2);
  c.fill(1, prompt(3));
  EXPECT_EQ(c.hit(1, prompt(3)), 3);
  EXPECT_EQ(c.kv.pool(0).cached_count(), 3) << "the growing group kept its own";
  EXPECT_TRUE(c.is_sound());
}

}  // namespace
}  // namespace fathom
