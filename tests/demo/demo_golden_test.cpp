// The demo model in `reference` numerics against transformers in float32: every greedy token whose
// margin is over 1e-3, and every logprob within 1e-3 (goldens/greedy.json).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "base/file.h"
#include "base/json.h"
#include "fathom/model.h"
#include "ops/cpu/cpu_ops.h"
#include "support/step_driver.h"
#include "weights/checkpoint.h"

namespace fathom::testing {
namespace {

constexpr double kTolerance = 1e-3;
constexpr double kMargin = 1e-3;

// What was compared, over all prompts.
struct Tally {
  int64_t tokens = 0;
  int64_t logprobs = 0;
  int64_t near_ties = 0;  // positions where a router's choice is closer than float32 can tell
  double largest_error = 0.0;
};

class DemoModel : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string source_dir = FATHOM_SOURCE_DIR;
    const std::string directory = source_dir + "/deploy/demo-model";
    source_ = Checkpoint::open(directory).value();
    ops_ = make_cpu_ops({Numerics::kReference, 2, int64_t{512} << 20});
    ModelOptions options;
    options.tokens_max = 2048;
    model_ = load_model(directory, *source_, *ops_, {}, options).value();
    DriverLimits limits;
    limits.tokens_max = 2048;
    limits.slots = 2;
    limits.blocks = 40;
    driver_.emplace(*ops_, *model_, limits);
    driver_->keep_logits(false);
    const auto text = read_file(source_dir + "/tests/demo/goldens/greedy.json", 64U << 20);
    golden_ = parse_json(text.value()).value();
  }

  void check_prompt(const Json& one);
  void check_answer(const Json& one, const StepDriver::Generated& made);
  void compare(double made, const Json& expected, const std::string& where);

  std::shared_ptr<const Checkpoint> source_;
  std::unique_ptr<Ops> ops_;
  std::unique_ptr<Model> model_;
  std::optional<StepDriver> driver_;
  Json golden_;
  Tally tally_;
};

bool holds(const Json& list, size_t i) {
  return std::find(list.begin(), list.end(), Json(i)) != list.end();
}

void DemoModel::compare(double made, const Json& expected, const std::string& where) {
  const double error = std::abs(made - expected.get<double>());
  EXPECT_LT(error, kTolerance) << where;
  tally_.largest_error = std::max(tally_.largest_error, error);
  ++tally_.logprobs;
}

// Logprobs of the prompt's own tokens: entry i is of token i, made at position i - 1.
void DemoModel::check_prompt(const Json& one) {
  if (!one.contains("prompt_logprobs") || one["prompt_logprobs"].is_null()) return;
  SamplingParams sampling;
  sampling.temperature = 0.0F;
  sampling.max_tokens = 1;
  sampling.prompt_logprobs = true;
  StepPlan plan;
  const auto prompt = one["prompt"].get<std::vector<TokenId>>();
  const SlotId slot = driver_->open(plan, prompt, sampling);
  plan.rows = {{slot, RowKind::kPrefill, static_cast<int32_t>(prompt.size()), true}};
  const RowResult row = driver_->run(plan).rows[0];
  ASSERT_EQ(row.prompt_logprobs.size() + 1, prompt.size());
  for (size_t i = 1; i < prompt.size(); ++i) {
    if (holds(one["prompt_near_ties"], i - 1)) {
      ++tally_.near_ties;
      continue;
    }
    compare(row.prompt_logprobs[i - 1].chosen, one["prompt_logprobs"][i],
            "prompt token " + std::to_string(i));
  }
  plan = StepPlan{};
  driver_->close(plan, slot);
  driver_->run(plan);
}

void DemoModel::check_answer(const Json& one, const StepDriver::Generated& made) {
  const auto expected = one["tokens"].get<std::vector<TokenId>>();
  for (size_t i = 0; i < expected.size(); ++i) {
    const std::string where = "token " + std::to_string(i);
    ASSERT_LT(i, made.tokens.size()) << where;
    if (made.tokens[i] != expected[i]) {
      ASSERT_LE(one["margins"][i].get<double>(), kMargin) << where;
      return;  // from here on the two answer different texts
    }
    ++tally_.tokens;
    if (holds(one["near_ties"], i)) {
      ++tally_.near_ties;
      continue;
    }
    compare(made.logprobs[i].chosen, one["logprobs"][i], where);
    for (size_t k = 0; k < one["top"][i].size(); ++k) {
      compare(made.logprobs[i].top.at(k).second, one["top"][i][k][1], where + ", entry of the top");
    }
  }
  EXPECT_EQ(made.finish == FinishReason::kStop ? "stop" : "length", one["finish"]);
}

TEST_F(DemoModel, GreedyTokensAndLogprobsEqualTransformers) {
  size_t number = 0;
  for (const Json& one : golden_["cases"]) {
    SCOPED_TRACE("case " + std::to_string(number++));
    SamplingParams sampling;
    sampling.temperature = 0.0F;
    sampling.max_tokens = static_cast<int32_t>(one["tokens"].size());
    sampling.logprobs = 5;
    const auto prompt = one["prompt"].get<std::vector<TokenId>>();
    check_answer(one, driver_->generate(prompt, sampling, 256));
    check_prompt(one);
  }
  EXPECT_EQ(number, 50U);
  std::printf(
      "%ld tokens equal, %ld logprobs compared, largest error %.2g; %ld near ties left out\n",
      tally_.tokens, tally_.logprobs, tally_.largest_error, tally_.near_ties);
  EXPECT_GT(tally_.logprobs, 4000);
}

}  // namespace
}  // namespace fathom::testing
