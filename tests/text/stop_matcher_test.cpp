#include "text/stop_matcher.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace fathom::text {
namespace {

StopMatcher matcher(std::vector<std::string> stops, bool include = false) {
  return StopMatcher::create(std::move(stops), include).value();
}

TEST(StopMatcher, PassesTextThroughWithoutStops) {
  StopMatcher m = matcher({});
  EXPECT_EQ(m.push("abc").text, "abc");
  EXPECT_EQ(m.finish(), "");
}

TEST(StopMatcher, FindsAStopAcrossDeltas) {
  StopMatcher m = matcher({"\nUser:"});
  EXPECT_EQ(m.push("Hi\n").text, "Hi");
  EXPECT_EQ(m.push("Use").text, "");
  const StopMatcher::Output out = m.push("r: more");
  EXPECT_TRUE(out.stopped);
  EXPECT_EQ(out.text, "");
  EXPECT_EQ(out.stop_index, 0u);
  EXPECT_EQ(m.push("more").text, "");
  EXPECT_EQ(m.finish(), "");
}

TEST(StopMatcher, GivesHeldTextOutWhenItLeadsNowhere) {
  StopMatcher m = matcher({"###"});
  EXPECT_EQ(m.push("a##").text, "a");
  EXPECT_EQ(m.push("b#").text, "##b");
  EXPECT_EQ(m.finish(), "#");
}

TEST(StopMatcher, CanIncludeTheStop) {
  StopMatcher m = matcher({"END"}, true);
  EXPECT_EQ(m.push("the EN").text, "the ");
  EXPECT_EQ(m.push("D.").text, "END");
}

TEST(StopMatcher, OfStopsThatEndTogetherTheLongestCounts) {
  StopMatcher m = matcher({"c", "abc"});
  const StopMatcher::Output out = m.push("xabcd");
  EXPECT_EQ(out.text, "x");
  EXPECT_EQ(out.stop_index, 1u);
}

TEST(StopMatcher, RefusesWhatIsOutOfBounds) {
  EXPECT_TRUE(StopMatcher::create(std::vector<std::string>(16, "x"), false).is_ok());
  EXPECT_FALSE(StopMatcher::create(std::vector<std::string>(17, "x"), false).is_ok());
  EXPECT_FALSE(StopMatcher::create({""}, false).is_ok());
  EXPECT_TRUE(StopMatcher::create({std::string(4096, 'x')}, false).is_ok());
  EXPECT_EQ(StopMatcher::create({std::string(4097, 'x')}, false).status().subject(), "stop");
}

// The plain meaning: the first end of any stop string; of those the longest.
std::string expected(const std::string& text, const std::vector<std::string>& stops, bool include) {
  for (std::size_t end = 1; end <= text.size(); ++end) {
    std::size_t longest = 0;
    for (const std::string& stop : stops) {
      if (std::string_view(text).substr(0, end).ends_with(stop))
        longest = std::max(longest, stop.size());
    }
    if (longest > 0) return text.substr(0, include ? end : end - longest);
  }
  return text;
}

TEST(StopMatcher, EqualsAPlainSearchUnderAnySplit) {
  std::mt19937 random(3);
  const auto word = [&](std::size_t longest) {
    std::string w(1 + random() % longest, 'a');
    for (char& c : w) c = "ab"[random() % 2];
    return w;
  };
  for (int round = 0; round < 20000; ++round) {
    std::vector<std::string> stops(1 + random() % 3);
    for (std::string& stop : stops) stop = word(6);
    const bool include = random() % 2;
    const std::string text = word(40);
    StopMatcher m = matcher(stops, include);
    std::string streamed;
    for (std::size_t at = 0; at < text.size() && !m.stopped();) {
      const std::size_t n = 1 + random() % 5;
      streamed += m.push(std::string_view(text).substr(at, n)).text;
      at += n;
    }
    streamed += m.finish();
    ASSERT_EQ(streamed, expected(text, stops, include)) << text;
  }
}

TEST(StopMatcher, HoldsNoMoreThanABeginningOfAStop) {
  StopMatcher m = matcher({"aab"});
  EXPECT_EQ(m.push("aaaaaaaaaa").text, "aaaaaaaa");
}

}  // namespace
}  // namespace fathom::text
