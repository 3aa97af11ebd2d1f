// Every family in `reference` numerics against transformers in float32.
#include <gtest/gtest.h>

#include <cstdio>

#include "family_model.h"

namespace fathom::testing {
namespace {

// Both sides sum in float32, in other orders.
constexpr float kTolerance = 1e-4F;
// Of the logits; below it the two may rightly choose otherwise.
constexpr float kMargin = 1e-3F;
// Router scores that differ by less may be ordered otherwise.
constexpr float kNearTie = 1e-5F;

class FamilyGoldenTest : public ::testing::TestWithParam<std::string> {};

TEST_P(FamilyGoldenTest, LogitsAndGreedyTokensEqualTransformers) {
  const FamilyGolden golden = read_family_golden(GetParam());
  ASSERT_EQ(golden.seed, 1U);
  FamilyModel tiny(GetParam(), {});
  // The golden's tokens are forced, so that one token chosen otherwise hides no other.
  std::vector<TokenId> tokens = golden.prompt;
  tokens.insert(tokens.end(), golden.greedy.begin(), golden.greedy.end() - 1);
  SamplingParams sampling;
  sampling.temperature = 0.0F;
  sampling.max_tokens = 1;
  sampling.prompt_logprobs = true;
  const auto logits = tiny.driver->generate(tokens, sampling).prompt_logits;
  ASSERT_EQ(logits.size(), golden.positions.size());

  float largest = 0.0F;
  int32_t near_ties = 0;
  int32_t counted = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    const GoldenPosition& at = golden.positions[i];
    near_ties += at.routing_gap < kNearTie ? 1 : 0;
    if (near_ties > 0) continue;  // an expert chosen otherwise is seen by all that follow
    ++counted;
    const float error = relative_error(logits[i], at);
    EXPECT_LT(error, kTolerance) << "position " << i;
    largest = std::max(largest, error);
  }
  EXPECT_GE(counted, 43) << "too many positions follow a near tie of experts";
  std::printf("%s: largest relative error %.2g over %d positions, %d near ties\n",
              GetParam().c_str(), largest, counted, near_ties);
}

TEST_P(FamilyGoldenTest, GeneratesTheSameText) {
  const FamilyGolden golden = read_family_golden(GetParam());
  FamilyModel tiny(GetParam(), {});
  SamplingParams sampling;
  sampling.temperature = 0.0F;
  sampling.max_tokens = static_cast<int32_t>(golden.greedy.size());
  sampling.ignore_eos = true;
  const auto made = tiny.driver->generate(golden.prompt, sampling, 7);
  for (size_t i = 0; i < golden.greedy.size(); ++i) {
    if (made.tokens.at(i) == golden.greedy[i]) continue;
    const GoldenPosition& at = golden.positions[golden.prompt.size() - 1 + i];
    EXPECT_LT(at.margin(), kMargin) << "token " << i;
    break;  // from here on the two answer different texts
  }
}

INSTANTIATE_TEST_SUITE_P(Families, FamilyGoldenTest, ::testing::ValuesIn(family_names()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace fathom::testing
