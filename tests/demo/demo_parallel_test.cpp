// The demo model split over ranks on CPU threads against one rank, `reference` numerics: the
// log-probability of every token of the vocabulary at every position of six prompts and of sixteen
// decoded tokens each.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <thread>

#include "base/file.h"
#include "base/json.h"
#include "comm/thread_comm.h"
#include "fathom/model.h"
#include "ops/cpu/cpu_ops.h"
#include "support/step_driver.h"
#include "weights/checkpoint.h"

namespace fathom::testing {
namespace {

constexpr double kTolerance = 1e-4;  // absolute, on log-probabilities
constexpr size_t kPrompts = 6;
constexpr size_t kPromptTokensMin = 40;
constexpr size_t kPromptTokensMax = 120;
constexpr int32_t kAnswerTokens = 16;
constexpr int32_t kChunk = 64;  // longer prompts come in two steps

using Logits = std::vector<std::vector<float>>;

// What a way of running the model computed, prompt by prompt.
struct Computed {
  std::vector<Logits> logits;  // prompt positions, then the answer's
  std::vector<std::vector<TokenId>> tokens;
};

// Prompts of the committed goldens, in their order, whose length is in the range.
std::vector<std::vector<TokenId>> prompts() {
  const auto text =
      read_file(std::string(FATHOM_SOURCE_DIR) + "/tests/demo/goldens/greedy.json", 64U << 20);
  const Json golden = parse_json(text.value()).value();
  std::vector<std::vector<TokenId>> chosen;
  for (const Json& one : golden["cases"]) {
    auto prompt = one["prompt"].get<std::vector<TokenId>>();
    if (prompt.size() < kPromptTokensMin || prompt.size() > kPromptTokensMax) continue;
    chosen.push_back(std::move(prompt));
    if (chosen.size() == kPrompts) break;
  }
  return chosen;
}

// One rank's whole run, on its own thread.
Computed run_rank(const Checkpoint& source, const std::string& directory, const Groups& groups,
                  const std::vector<std::vector<TokenId>>& inputs) {
  const auto ops = make_cpu_ops({Numerics::kReference, 1, int64_t{256} << 20});
  ModelOptions options;
  options.tokens_max = 256;
  const auto model = load_model(directory, source, *ops, groups, options).value();
  StepDriver driver(*ops, *model, {.slots = 2, .tokens_max = 256, .blocks = 8}, groups);
  SamplingParams sampling;
  sampling.temperature = 0.0F;
  sampling.max_tokens = kAnswerTokens;
  sampling.ignore_eos = true;
  sampling.prompt_logprobs = true;
  Computed run;
  for (const auto& prompt : inputs) {
    auto made = driver.generate(prompt, sampling, kChunk);
    run.logits.push_back(std::move(made.prompt_logits));
    auto& all = run.logits.back();
    all.insert(all.end(), made.step_logits.begin(), made.step_logits.end());
    run.tokens.push_back(std::move(made.tokens));
  }
  EXPECT_TRUE(ops->health().is_ok());
  return run;
}

// The last rank's run: of a pipeline, the stage that samples.
Computed run_ranks(const Checkpoint& source, const std::string& directory, int32_t ranks,
                   bool pipeline, const std::vector<std::vector<TokenId>>& inputs) {
  auto comms = make_thread_group(ranks);
  std::vector<Computed> runs(ranks);
  std::vector<std::thread> threads;
  for (int32_t rank = 0; rank < ranks; ++rank) {
    threads.emplace_back([&, rank] {
      Groups groups;
      (pipeline ? groups.pp : groups.tp) = comms[rank].get();
      runs[rank] = run_rank(source, directory, groups, inputs);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const Computed& run : runs) EXPECT_EQ(run.tokens, runs[0].tokens);
  return runs.back();
}

std::vector<double> log_softmax(const std::vector<float>& logits) {
  const double peak = *std::max_element(logits.begin(), logits.end());
  double sum = 0.0;
  for (const float x : logits) sum += std::exp(x - peak);
  std::vector<double> y(logits.begin(), logits.end());
  for (double& x : y) x -= peak + std::log(sum);
  return y;
}

// Largest absolute difference of log-probabilities; NaN counts as infinite.
double largest_difference(const Logits& a, const Logits& b) {
  double largest = 0.0;
  for (size_t i = 0; i < a.size(); ++i) {
    const std::vector<double> x = log_softmax(a[i]);
    const std::vector<double> y = log_softmax(b[i]);
    for (size_t k = 0; k < x.size(); ++k) {
      const double d = std::abs(x[k] - y[k]);
      largest = std::isfinite(d) ? std::max(largest, d) : INFINITY;
    }
  }
  return largest;
}

TEST(DemoModelOnRanks, EqualsOneRank) {
  const std::string directory = std::string(FATHOM_SOURCE_DIR) + "/deploy/demo-model";
  const auto source = Checkpoint::open(directory).value();
  const auto inputs = prompts();
  ASSERT_EQ(inputs.size(), kPrompts);
  const Computed alone = run_rank(*source, directory, {}, inputs);
  struct Split {
    const char* name;
    int32_t ranks;
    bool pipeline;
  };
  for (const Split& split : {Split{"TP 2", 2, false}, {"TP 4", 4, false}, {"PP 2", 2, true}}) {
    SCOPED_TRACE(split.name);
    const Computed made = run_ranks(*source, directory, split.ranks, split.pipeline, inputs);
    EXPECT_EQ(made.tokens, alone.tokens);
    double largest = 0.0;
    size_t positions = 0;
    for (size_t p = 0; p < kPrompts; ++p) {
      ASSERT_EQ(made.logits[p].size(), inputs[p].size() + kAnswerTokens);
      ASSERT_EQ(made.logits[p].size(), alone.logits[p].size());
      largest = std::max(largest, largest_difference(made.logits[p], alone.logits[p]));
      positions += made.logits[p].size();
    }
    EXPECT_LE(largest, kTolerance);
    std::printf("%s: %zu positions, largest difference of a log-probability %.3g\n", split.name,
                positions, largest);
  }
}

}  // namespace
}  // namespace fathom::testing
