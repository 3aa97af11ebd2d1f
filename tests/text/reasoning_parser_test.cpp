#include "text/reasoning_parser.h"

#include <gtest/gtest.h>

namespace fathom::text {
namespace {

struct Split {
  std::string reasoning, content;
  bool operator==(const Split&) const = default;
};

Split parse(OutputStart start, std::string_view text, std::size_t step) {
  ReasoningParser parser(start);
  Split split;
  const auto take = [&split](const ReasoningDelta& delta) {
    split.reasoning += delta.reasoning;
    split.content += delta.content;
  };
  for (std::size_t at = 0; at < text.size(); at += step) take(parser.push(text.substr(at, step)));
  take(parser.finish());
  return split;
}

void expect_split(OutputStart start, std::string_view text, const Split& expected) {
  for (std::size_t step = 1; step <= text.size() + 1; ++step) {
    const Split split = parse(start, text, step);
    EXPECT_EQ(split.reasoning, expected.reasoning) << text << " by " << step;
    EXPECT_EQ(split.content, expected.content) << text << " by " << step;
  }
}

TEST(ReasoningParser, SplitsAfterAPromptThatOpensThink) {
  expect_split(OutputStart::kReasoning, "I add.\n</think>\n\nIt is 4.", {"I add.\n", "It is 4."});
  expect_split(OutputStart::kReasoning, "</think>4", {"", "4"});
  expect_split(OutputStart::kReasoning, "cut off </thin", {"cut off </thin", ""});
  expect_split(OutputStart::kReasoning, "a</think>b</think>c", {"a", "b</think>c"});
  expect_split(OutputStart::kReasoning, "a<</think></think>b", {"a<", "</think>b"});
}

TEST(ReasoningParser, DetectsAThinkOfTheAnswersOwn) {
  expect_split(OutputStart::kDetect, "<think>\nI add.\n</think>\n\n4", {"I add.\n", "4"});
  expect_split(OutputStart::kDetect, "<think>x</think>4", {"x", "4"});
  expect_split(OutputStart::kDetect, "<thinking is hard", {"", "<thinking is hard"});
  expect_split(OutputStart::kDetect, "4, as </think> shows", {"", "4, as </think> shows"});
  expect_split(OutputStart::kDetect, "<thi", {"", "<thi"});
  expect_split(OutputStart::kDetect, "", {"", ""});
}

TEST(ReasoningParser, LeavesContentAlone) {
  expect_split(OutputStart::kContent, "\n<think>a</think>b", {"", "\n<think>a</think>b"});
}

TEST(ReasoningParser, TellsWhereTheNextTextBelongs) {
  ReasoningParser parser(OutputStart::kDetect);
  EXPECT_FALSE(parser.in_reasoning());
  (void)parser.push("<think>");
  EXPECT_TRUE(parser.in_reasoning());
  (void)parser.push("so </think>");
  EXPECT_FALSE(parser.in_reasoning());
}

TEST(ReasoningParser, HoldsBackOnlyWhatMayBeATag) {
  ReasoningParser parser(OutputStart::kReasoning);
  EXPECT_EQ(parser.push("a</").reasoning, "a");
  EXPECT_EQ(parser.push("b").reasoning, "</b");
}

}  // namespace
}  // namespace fathom::text
