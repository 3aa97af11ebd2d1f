#include "text/utf8.h"

#include <gtest/gtest.h>

namespace fathom::text {
namespace {

TEST(Utf8, AcceptsEveryScalarValue) {
  std::string text;
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (c < 0xD800 || c >= 0xE000) append_code_point(c, text);
  }
  EXPECT_TRUE(is_valid_utf8(text));
  std::string lossy;
  append_utf8_lossy(text, lossy);
  EXPECT_EQ(lossy, text);
}

TEST(Utf8, DecodesWhatItEncodes) {
  for (char32_t c :
       {U'a', U'\x7F', U'\x80', U'\x7FF', U'\x800', U'\xFFFF', U'\x10000', U'\x10FFFF'}) {
    std::string text;
    append_code_point(c, text);
    std::size_t length = 0;
    EXPECT_EQ(decode_valid_utf8(text.data(), length), c);
    EXPECT_EQ(length, text.size());
  }
}

TEST(Utf8, NamesTheFirstBadByte) {
  EXPECT_EQ(first_invalid_utf8("0123456789\xff"), 10u);
  EXPECT_EQ(first_invalid_utf8("\xC0\x80"), 0u);          // overlong
  EXPECT_EQ(first_invalid_utf8("a\xED\xA0\x80"), 1u);     // surrogate
  EXPECT_EQ(first_invalid_utf8("\xF4\x90\x80\x80"), 0u);  // above U+10FFFF
  EXPECT_EQ(first_invalid_utf8("ab\xE4\xB8"), 2u);        // cut short
  EXPECT_FALSE(first_invalid_utf8("\xE4\xB8\xAD").has_value());
}

// Unicode 16, section 3.9, tables 3-8 to 3-11.
TEST(Utf8, ReplacesMaximalSubparts) {
  const std::string r(kReplacementCharacter);
  const auto lossy = [](std::string_view bytes) {
    std::string out;
    append_utf8_lossy(bytes, out);
    return out;
  };
  EXPECT_EQ(lossy("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41"), r + r + r + r + r + r + r + r + "A");
  EXPECT_EQ(lossy("\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41"), r + r + r + r + r + r + r + r + "A");
  EXPECT_EQ(lossy("\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42"), r + r + r + r + r + "A" + r + r + "B");
  EXPECT_EQ(lossy("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41"), r + r + r + r + "A");
}

TEST(Utf8, TruncatesBetweenCharacters) {
  EXPECT_EQ(truncate_utf8("aé中🙂", 100), "aé中🙂");
  EXPECT_EQ(truncate_utf8("aé中🙂", 9), "aé中");
  EXPECT_EQ(truncate_utf8("aé中🙂", 6), "aé中");
  EXPECT_EQ(truncate_utf8("aé中🙂", 5), "aé");
  EXPECT_EQ(truncate_utf8("中", 2), "");
  EXPECT_EQ(truncate_utf8("abc", 0), "");
}

}  // namespace
}  // namespace fathom::text
