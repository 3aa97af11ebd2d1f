#include "text/added_tokens.h"

#include <gtest/gtest.h>

namespace fathom::text {
namespace {

using Match = AddedTokenSet::Match;

AddedToken token(TokenId id, const char* content, bool single_word = false, bool lstrip = false,
                 bool rstrip = false) {
  AddedToken t;
  t.id = id;
  t.content = content;
  t.single_word = single_word;
  t.lstrip = lstrip;
  t.rstrip = rstrip;
  return t;
}

std::vector<std::tuple<TokenId, std::size_t, std::size_t>> find(const AddedTokenSet& set,
                                                                std::string_view text,
                                                                bool trusted = true) {
  std::vector<std::tuple<TokenId, std::size_t, std::size_t>> found;
  const auto ranges = trusted ? TrustedRanges::all(text.size()) : TrustedRanges();
  for (const Match& m : set.find_all(text, ranges)) found.emplace_back(m.id, m.begin, m.end);
  return found;
}

using Found = std::vector<std::tuple<TokenId, std::size_t, std::size_t>>;

TEST(AddedTokens, TakesTheLongestAtTheLeftmostPlace) {
  const AddedTokenSet set({token(1, "<a"), token(2, "<ab>"), token(3, "b>c"), token(4, "a")});
  EXPECT_EQ(find(set, "x<ab>c"), (Found{{2, 1, 5}}));
  EXPECT_EQ(find(set, "<ab"), (Found{{1, 0, 2}}));
  EXPECT_EQ(find(set, "<<ab>a"), (Found{{2, 1, 5}, {4, 5, 6}}));
  EXPECT_EQ(find(set, ""), Found{});
}

TEST(AddedTokens, StripsWhiteSpace) {
  const AddedTokenSet set(
      {token(1, "<l>", false, true, false), token(2, "<r>", false, false, true)});
  EXPECT_EQ(find(set, "a \u3000\n<l> b"), (Found{{1, 1, 9}}));
  EXPECT_EQ(find(set, "a <r> \u00A0b"), (Found{{2, 2, 8}}));
  EXPECT_EQ(find(set, "<r>  <l>"),
            (Found{{2, 0, 5}, {1, 5, 8}}));  // what one took the other has not
}

TEST(AddedTokens, SingleWordsStandAlone) {
  const AddedTokenSet set({token(1, "word", true)});
  EXPECT_EQ(find(set, "word sword wordy 中word word-word").size(), 3u);
  EXPECT_EQ(find(set, "word").size(), 1u);
  EXPECT_EQ(find(set, "_word").size(), 0u);
}

TEST(AddedTokens, ControlTokensNeedTrust) {
  AddedToken special = token(2, "ab");
  special.special = true;
  EXPECT_TRUE(is_control_token(special));
  EXPECT_TRUE(is_control_token(token(1, "<x>")));
  EXPECT_TRUE(is_control_token(token(1, "｜DSML｜")));
  EXPECT_FALSE(is_control_token(token(1, "ü")));
  EXPECT_FALSE(is_control_token(token(1, "  ")));
  const AddedTokenSet set({token(1, "a"), special, token(3, "<a>")});
  EXPECT_EQ(find(set, "ab<a>", false),
            (Found{{1, 0, 1}, {1, 3, 4}}));  // the literal inside them stays
  TrustedRanges half;
  half.add(0, 2);
  const std::string text = "abab";
  const auto matches = set.find_all(text, half);
  ASSERT_EQ(matches.size(), 2u);
  EXPECT_EQ(matches[0].id, 2);
  EXPECT_EQ(matches[1].id, 1);
}

TEST(TrustedRanges, JoinsNeighbours) {
  TrustedRanges ranges;
  ranges.add(0, 2);
  ranges.add(2, 2);
  ranges.add(2, 5);
  ranges.add(7, 9);
  EXPECT_EQ(ranges.ranges().size(), 2u);
  EXPECT_TRUE(ranges.covers(0, 5));
  EXPECT_FALSE(ranges.covers(0, 6));
  EXPECT_FALSE(ranges.covers(5, 7));
  EXPECT_TRUE(ranges.covers(8, 9));
  EXPECT_FALSE(ranges.covers(9, 10));
}

}  // namespace
}  // namespace fathom::text
