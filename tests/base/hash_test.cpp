#include "base/hash.h"

#include <gtest/gtest.h>

#include <vector>

namespace fathom {
namespace {

KeyedHasher::Key key_of(int seed) {
  KeyedHasher::Key key{};
  key[0] = static_cast<std::byte>(seed);
  return key;
}

TEST(KeyedHasher, SameKeySameHashOtherKeyOtherHash) {
  std::vector<int32_t> tokens = {1, 2, 3};
  KeyedHasher a(key_of(1)), same(key_of(1)), other(key_of(2));
  EXPECT_EQ(a.hash(bytes_of(tokens)), same.hash(bytes_of(tokens)));
  EXPECT_NE(a.hash(bytes_of(tokens)), other.hash(bytes_of(tokens)));
  std::vector<int32_t> changed = {1, 2, 4};
  EXPECT_NE(a.hash(bytes_of(tokens)), a.hash(bytes_of(changed)));
}

TEST(KeyedHasher, FramesItsParts) {
  KeyedHasher hasher(key_of(1));
  std::string ab = "ab", c = "c", a = "a", bc = "bc", none;
  EXPECT_EQ(hasher.hash({bytes_of(ab), bytes_of(c)}), hasher.hash({bytes_of(ab), bytes_of(c)}));
  EXPECT_NE(hasher.hash({bytes_of(ab), bytes_of(c)}), hasher.hash({bytes_of(a), bytes_of(bc)}));
  EXPECT_NE(hasher.hash({bytes_of(a), bytes_of(none)}), hasher.hash({bytes_of(none), bytes_of(a)}));
}

TEST(KeyedHasher, KeysAreNotReused) {
  EXPECT_NE(KeyedHasher::random_key(), KeyedHasher::random_key());
}

TEST(Hash128, HexKeepsLeadingZeros) {
  EXPECT_EQ(to_hex({0xab, 0x1}), "000000000000000100000000000000ab");
}

}  // namespace
}  // namespace fathom
