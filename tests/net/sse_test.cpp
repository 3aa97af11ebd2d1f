// SSE framing and the characters that some clients take for line ends.
#include "net/sse.h"

#include <gtest/gtest.h>

namespace fathom::net {
namespace {

std::string safe(std::string_view json) {
  std::string out = ">";
  append_line_safe_json(out, json);
  return out.substr(1);
}

TEST(Sse, AnEventIsOneDataLineAndABlankLine) {
  std::string out = "before";
  append_sse_event(out, R"({"a":"\n"})");
  EXPECT_EQ(out, "beforedata: {\"a\":\"\\n\"}\n\n");
  EXPECT_EQ(kSseDone, "data: [DONE]\n\n");
  EXPECT_EQ(kSseKeepAlive.front(), ':');
  EXPECT_TRUE(kSseKeepAlive.ends_with("\n\n"));
}

TEST(Sse, ARawLineBreakCannotSplitAnEvent) {
  std::string out;
  append_sse_event(out, "{\n\"a\":\r\n1}");
  EXPECT_EQ(out, "data: { \"a\":  1}\n\n");
}

TEST(Sse, UnicodeLineBreaksAreEscaped) {
  EXPECT_EQ(safe("a\u2028b\u2029c\u0085d"), "a\\u2028b\\u2029c\\u0085d");
  EXPECT_EQ(safe("\u2028\u2028"), "\\u2028\\u2028");
  EXPECT_TRUE(has_unicode_line_break("xx\u2029"));
  EXPECT_TRUE(has_unicode_line_break("\u0085"));
}

TEST(Sse, NeighboursAreNot) {
  // The first shares two bytes with U+2028, the others its lead byte or that of U+0085.
  const std::string text = "\u2027\u202a\u20ac\u0084\u0086é日本🙂";
  EXPECT_EQ(safe(text), text);
  EXPECT_FALSE(has_unicode_line_break(text));
  EXPECT_EQ(safe("\xe2\x80"), "\xe2\x80");
  EXPECT_EQ(safe("\xc2"), "\xc2");
  EXPECT_EQ(safe(""), "");
}

}  // namespace
}  // namespace fathom::net
