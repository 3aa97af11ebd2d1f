// The model in `reference` numerics against transformers in float32.
#include <gtest/gtest.h>

#include <algorithm>

#include "golden_file.h"
#include "tiny_model.h"

namespace fathom::testing {
namespace {

// Logits have a spread of 2.3; both sides sum in float32, in other orders.
constexpr float kTolerance = 2e-4F;
constexpr float kMargin = 1e-3F;

class GoldenTest : public ::testing::TestWithParam<HashFormat> {
 protected:
  GoldenTest()
      : golden_(read_golden(std::string(FATHOM_SOURCE_DIR) + "/tests/model/goldens/tiny_" +
                            (GetParam() == HashFormat::kFp8 ? "fp8" : "bf16") + ".bin")) {
    options_.format = GetParam();
  }

  const Golden golden_;
  TinyOptions options_;
};

float margin_of(const std::vector<float>& logits) {
  std::vector<float> sorted = logits;
  std::partial_sort(sorted.begin(), sorted.begin() + 2, sorted.end(), std::greater<>());
  return sorted[0] - sorted[1];
}

TEST_P(GoldenTest, PromptLogitsAndGreedyTokensEqualTransformers) {
  TinyModel tiny(options_);
  SamplingParams sampling = greedy(static_cast<int32_t>(golden_.greedy.size()));
  sampling.prompt_logprobs = true;
  const auto made = tiny.driver->generate(golden_.prompt, sampling);
  EXPECT_LT(largest_difference(made.prompt_logits, golden_.prompt_logits), kTolerance);
  ASSERT_EQ(made.tokens.size(), golden_.greedy.size());
  for (size_t i = 0; i < made.tokens.size(); ++i) {
    if (made.tokens[i] == golden_.greedy[i]) {
      EXPECT_LT(largest_difference({made.step_logits[i]}, {golden_.step_logits[i]}), kTolerance);
      continue;
    }
    EXPECT_LT(margin_of(golden_.step_logits[i]), kMargin) << "token " << i;
    break;  // from here on the two answer different texts
  }
}

TEST_P(GoldenTest, DraftLogitsEqualTransformersLayer) {
  options_.limits.drafts_max = 1;
  TinyModel tiny(options_);
  // The driver's prefill drafts for the last position of each chunk: chunks of one token show all.
  StepPlan plan;
  const SlotId slot = tiny.driver->open(plan, golden_.prompt, greedy(4));
  std::vector<std::vector<float>> drafts;
  for (size_t i = 0; i + 1 < golden_.prompt.size(); ++i) {
    plan.rows = {{slot, RowKind::kPrefill, 1, false}};
    tiny.driver->run(plan);
    plan = StepPlan{};
    drafts.push_back(tiny.driver->draft_logits().at(0));
  }
  EXPECT_LT(largest_difference(drafts, golden_.draft_logits), kTolerance);
}

INSTANTIATE_TEST_SUITE_P(Formats, GoldenTest,
                         ::testing::Values(HashFormat::kBF16, HashFormat::kFp8),
                         [](const auto& info) {
                           return info.param == HashFormat::kFp8 ? "Fp8" : "Bf16";
                         });

}  // namespace
}  // namespace fathom::testing
