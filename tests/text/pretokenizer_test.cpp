// The scanners against PCRE2 on the same patterns, and the general path's own rules.
#include "text/pretokenizer.h"

#include <gtest/gtest.h>

#include "tests/text/string_generator.h"
#include "text/unicode_class.h"
#include "text/utf8.h"

namespace fathom::text {
namespace {

using Steps = std::vector<PreTokenizerStep>;
using Kind = PreTokenizerStep::Kind;

// As the tokenizer.json of each family spells them.
Steps deepseek_v3() {
  return {{Kind::kSplit, "\\p{N}{1,3}"},
          {Kind::kSplit, "[一-龥\u3040-\u309F\u30A0-\u30FF]+"},
          {Kind::kSplit,
           "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?"
           "[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"}};
}

Steps gpt4(const char* digits) {
  return {{Kind::kSplit,
           std::string("(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|") + digits +
               "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"}};
}

std::vector<std::string> pieces(const PreTokenizer& pre, const std::string& text) {
  std::vector<std::uint32_t> ends;
  EXPECT_TRUE(pre.split(text, ends).is_ok());
  std::vector<std::string> parts;
  std::uint32_t begin = 0;
  for (const std::uint32_t end : ends) {
    parts.push_back(text.substr(begin, end - begin));
    begin = end;
  }
  EXPECT_EQ(begin, text.size());
  return parts;
}

void expect_same(const Steps& steps) {
  const PreTokenizer fast = PreTokenizer::build(steps).value();
  const PreTokenizer slow = PreTokenizer::build(steps, PreTokenizer::Engine::kRegex).value();
  ASSERT_TRUE(fast.uses_scanner());
  ASSERT_FALSE(slow.uses_scanner());
  const StringGenerator generator;
  for (int i = 0; i < 20000; ++i) {
    const std::string text = generator.make_string(1'000'000 + i);
    ASSERT_EQ(pieces(fast, text), pieces(slow, text)) << text;
  }
}

TEST(Scanner, DeepSeekEqualsItsPatterns) { expect_same(deepseek_v3()); }
TEST(Scanner, Qwen2EqualsItsPattern) { expect_same(gpt4("\\p{N}")); }
TEST(Scanner, Llama3EqualsItsPattern) { expect_same(gpt4("\\p{N}{1,3}")); }

// Each code point, in the places where its class decides.
void expect_same_for_all_characters(const Steps& steps) {
  const PreTokenizer fast = PreTokenizer::build(steps).value();
  const PreTokenizer slow = PreTokenizer::build(steps, PreTokenizer::Engine::kRegex).value();
  std::string text;
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    std::string one;
    append_code_point(c, one);
    text += one + "a" + one + " " + one + "!" + one + one + "1";
    text += one + "'" + one + "e\n";
    if (c % 0x400 != 0x3FF) continue;
    ASSERT_EQ(pieces(fast, text), pieces(slow, text))
        << "up to character " << static_cast<std::uint32_t>(c);
    text.clear();
  }
}

TEST(Scanner, AgreesOnEveryCharacter) {
  expect_same_for_all_characters(deepseek_v3());
  expect_same_for_all_characters(gpt4("\\p{N}{1,3}"));
}

TEST(Scanner, OtherPatternsHaveNone) {
  EXPECT_FALSE(PreTokenizer::build({{Kind::kSplit, "\\p{N}{1,4}"}}).value().uses_scanner());
  EXPECT_FALSE(PreTokenizer::build({{Kind::kIndividualDigits, ""}}).value().uses_scanner());
}

using Parts = std::vector<std::string>;

TEST(PreTokenizer, SplitsDigits) {
  const PreTokenizer runs = PreTokenizer::build({{Kind::kDigitRuns, ""}}).value();
  EXPECT_EQ(pieces(runs, "a12b3"), (Parts{"a", "12", "b", "3"}));
  const PreTokenizer each = PreTokenizer::build({{Kind::kIndividualDigits, ""}}).value();
  EXPECT_EQ(pieces(each, "a12½b"), (Parts{"a", "1", "2", "½", "b"}));
}

TEST(PreTokenizer, KeepsGapsAndAppliesStepsInOrder) {
  const PreTokenizer pre =
      PreTokenizer::build({{Kind::kSplit, "[xy]+"}, {Kind::kSplit, "y|b"}}).value();
  EXPECT_EQ(pieces(pre, "abxyya"), (Parts{"a", "b", "x", "y", "y", "a"}));
}

TEST(PreTokenizer, ALookAheadEndsWithItsPiece) {
  const PreTokenizer pre =
      PreTokenizer::build({{Kind::kSplit, "[0-9]+"}, {Kind::kSplit, "\\s+(?!\\S)|\\s+"}}).value();
  EXPECT_EQ(pieces(pre, "a  1  b"), (Parts{"a", "  ", "1", " ", " ", "b"}));
}

TEST(PreTokenizer, StepsOverEmptyMatches) {
  const PreTokenizer pre = PreTokenizer::build({{Kind::kSplit, "x*"}}).value();
  EXPECT_EQ(pieces(pre, "éxxa"), (Parts{"é", "xx", "a"}));
}

TEST(PreTokenizer, LineAnchorsMatchAtEveryLineAsInRuby) {
  const PreTokenizer pre = PreTokenizer::build({{Kind::kSplit, "\\s+$"}}).value();
  EXPECT_EQ(pieces(pre, "a  \nb "), (Parts{"a", "  ", "\nb", " "}));
}

TEST(Translate, AddsWhatUnicode14LacksAndSpellsSpacesOut) {
  const std::string letters = std::string(newer_than_unicode14('L'));
  EXPECT_EQ(translate_pattern("\\p{L}+").value(), "[\\p{L}" + letters + "]+");
  EXPECT_EQ(translate_pattern("[a\\p{L}]").value(), "[a\\p{L}" + letters + "]");
  EXPECT_EQ(translate_pattern("\\P{L}").value(), "[^\\p{L}" + letters + "]");
  EXPECT_EQ(translate_pattern("\\p{Lu}\\d[]a]\\]").value(), "\\p{Lu}\\d[]a]\\]");
  EXPECT_TRUE(translate_pattern("(?!\\S)").value().starts_with("(?![^\\x{9}-\\x{D}"));
}

TEST(Translate, RefusesWhatMeansSomethingElse) {
  for (const char* pattern : {"[a&&b]", "[a[bc]]", "\\h+", "[^\\S]", "(?m:.)", "\\pL", "a\\"}) {
    EXPECT_EQ(translate_pattern(pattern).status().code(), Code::kUnimplemented) << pattern;
  }
}

TEST(RegexSplit, BoundsItsBacktracking) {
  const RegexSplit split = RegexSplit::compile("(a+)+$").value();
  const std::string text = std::string(40, 'a') + "b";
  std::vector<std::uint32_t> ends = {static_cast<std::uint32_t>(text.size())};
  EXPECT_EQ(split.split(text, ends).code(), Code::kResourceExhausted);
}

}  // namespace
}  // namespace fathom::text
