#include "text/detokenizer.h"

#include <gtest/gtest.h>

#include <random>

#include "tests/text/tiny_tokenizer.h"

namespace fathom::text {
namespace {

TEST(Detokenizer, HoldsAnIncompleteCharacterBack) {
  Detokenizer detokenizer(tiny_tokenizer());
  EXPECT_EQ(detokenizer.push(0xE4), "");
  EXPECT_EQ(detokenizer.push(0xB8), "");
  EXPECT_EQ(detokenizer.push(0xAD), "中");
  EXPECT_EQ(detokenizer.push(0xF0), "");
  EXPECT_EQ(detokenizer.push('a'),
            "\xEF\xBF\xBD"
            "a");
  EXPECT_EQ(detokenizer.push(0xE4), "");
  EXPECT_EQ(detokenizer.finish(), "\xEF\xBF\xBD");
  EXPECT_EQ(detokenizer.finish(), "");
}

TEST(Detokenizer, SkipsSpecialTokensAlone) {
  Detokenizer skipping(tiny_tokenizer(), true), showing(tiny_tokenizer(), false);
  EXPECT_EQ(skipping.push(kTinyEos), "");
  EXPECT_EQ(skipping.push(kTinyUser), "<user>");
  EXPECT_EQ(showing.push(kTinyEos), "<eos>");
  EXPECT_EQ(showing.push(kTinyUmlaut), "ü");
}

TEST(Detokenizer, StreamEqualsDecodeOfAll) {
  const auto tokenizer = tiny_tokenizer();
  std::mt19937 random(7);
  const TokenId likely[] = {0xE4,     0xB8,        0xAD,          0xF0, 0x9F, 0x99,
                            0x82,     0xED,        0xA0,          0xC0, 'a',  kTinyHello,
                            kTinyEos, kTinyUmlaut, kTinySize + 5, -1};
  for (int round = 0; round < 20000; ++round) {
    std::vector<TokenId> ids(random() % 12);
    for (TokenId& id : ids) {
      id = random() % 4 == 0 ? static_cast<TokenId>(random() % kTinySize)
                             : likely[random() % std::size(likely)];
    }
    const bool skip = random() % 2;
    Detokenizer detokenizer(tokenizer, skip);
    std::string streamed;
    for (const TokenId id : ids) {
      const std::string delta = detokenizer.push(id);
      ASSERT_TRUE(is_valid_utf8(delta));
      streamed += delta;
    }
    streamed += detokenizer.finish();
    ASSERT_EQ(streamed, tokenizer->decode(ids, skip));
  }
}

}  // namespace
}  // namespace fathom::text
