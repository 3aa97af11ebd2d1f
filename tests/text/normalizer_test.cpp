#include "text/normalizer.h"

#include <gtest/gtest.h>
#include <utf8proc.h>

#include <random>

#include "tests/text/string_generator.h"
#include "text/utf8.h"

namespace fathom::text {
namespace {

std::string nfc(std::string_view text) { return normalize_nfc(text, {}).text; }

TEST(Normalizer, Composes) {
  EXPECT_EQ(nfc("e\u0301"), "é");
  EXPECT_EQ(nfc("a\u0323\u0302"), "ậ");
  EXPECT_EQ(nfc("a\u0302\u0323"), "ậ");                    // marks sorted first
  EXPECT_EQ(nfc("\u1100\u1161\u11A8"), "\uAC01");          // Hangul
  EXPECT_EQ(nfc("\u212B\u2126"), "ÅΩ");                    // singletons
  EXPECT_EQ(nfc("\u0958"), "\u0915\u093C");                // a composition that is excluded
  EXPECT_EQ(nfc("x\u0301é中\u0301"), "x\u0301é中\u0301");  // nothing to join
  EXPECT_EQ(nfc(""), "");
}

// Marks that came after Unicode 9 are starters to Hugging Face's normalizer.
TEST(Normalizer, KnowsNoMarksNewerThanItsOracle) {
  EXPECT_EQ(nfc("q\u0345\u0301"), "q\u0301\u0345");
  EXPECT_EQ(nfc("q\u0345\u07FD"), "q\u0345\u07FD");
}

TEST(Normalizer, TellsWhatNeedsNoWork) {
  EXPECT_FALSE(may_need_nfc("plain, naïve 中文 한국어 🙂"));
  EXPECT_TRUE(may_need_nfc("e\u0301"));
  EXPECT_TRUE(may_need_nfc("\u212B"));
}

TEST(Normalizer, EqualsUtf8procOnTextItKnows) {
  std::mt19937 random(11);
  const char32_t alphabet[] = {U'a',   U'o',   U'é',   0x301,  0x323, 0x302, 0x31B, 0x345,  0x334,
                               0x1100, 0x1161, 0x11A8, 0xAC00, 0x915, 0x93C, 0x958, 0xB47,  0xB56,
                               0x1E9B, 0x212B, 0x646,  0x651,  0x64E, 0x344, U'中', 0x1D15E};
  for (int round = 0; round < 20000; ++round) {
    std::string text;
    for (std::size_t n = random() % 12 + 1; n > 0; --n) {
      append_code_point(alphabet[random() % std::size(alphabet)], text);
    }
    auto* expected = utf8proc_NFC(reinterpret_cast<const utf8proc_uint8_t*>(text.c_str()));
    ASSERT_EQ(nfc(text), reinterpret_cast<const char*>(expected));
    free(expected);
    ASSERT_TRUE(may_need_nfc(text) || nfc(text) == text) << text;
  }
}

TEST(Normalizer, LeavesWhatIsNormalizedAlone) {
  const StringGenerator generator;
  for (int i = 0; i < 5000; ++i) {
    const std::string once = nfc(generator.make_string(3'000'000 + i));
    ASSERT_EQ(nfc(once), once);
  }
}

TEST(Normalizer, CarriesTrustOver) {
  // "ab" trusted, "e" + acute half trusted, "cd" not, "f" + acute trusted.
  const std::string text = "abe\u0301cdo\u0301";
  TrustedRanges trusted;
  trusted.add(0, 3);
  trusted.add(7, 10);
  const NormalizedText normalized = normalize_nfc(text, trusted);
  EXPECT_EQ(normalized.text, "abécdó");
  EXPECT_TRUE(normalized.trusted.covers(0, 2));
  EXPECT_FALSE(normalized.trusted.covers(2, 4));  // é came from text that was only half trusted
  EXPECT_FALSE(normalized.trusted.covers(4, 5));
  EXPECT_TRUE(normalized.trusted.covers(6, 8));
}

}  // namespace
}  // namespace fathom::text
