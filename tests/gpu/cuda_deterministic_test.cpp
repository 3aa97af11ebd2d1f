// Deterministic steps on CUDA: requests that come and leave at random, share steps of every shape
// and lose their place to each other give the same tokens and the same log-probabilities, bit for
// bit, as each gives alone. Needs a GPU.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <random>

#include "model/family_golden.h"
#include "ops/cuda/cuda_ops.h"
#include "support/step_loop.h"
#include "weights/checkpoint.h"
#include "weights/synthetic.h"

namespace fathom::testing {
namespace {

constexpr int64_t kArenaBytes = int64_t{256} << 20;
constexpr int kRequests = 48;
constexpr RequestId kAlone = 1000;  // the same requests again, one after the other

struct Asked {
  std::vector<TokenId> prompt;
  SamplingParams sampling;
  int turn = 0;                     // at which it comes
  std::optional<int> cancelled_at;  // turns after that
};

std::vector<Asked> requests(std::mt19937& random, int32_t vocab) {
  const auto below = [&](int n) { return static_cast<int>(random() % static_cast<uint32_t>(n)); };
  std::vector<TokenId> shared;  // a prefix that some prompts have in common
  for (int i = 0; i < 130; ++i) shared.push_back(below(vocab));
  std::vector<Asked> all(kRequests);
  for (Asked& one : all) {
    if (below(3) == 0) one.prompt.assign(shared.begin(), shared.begin() + 64 + below(66));
    const int more = 1 + below(one.prompt.empty() && below(4) == 0 ? 300 : 40);
    for (int i = 0; i < more; ++i) one.prompt.push_back(below(vocab));
    one.sampling.temperature = below(2) == 0 ? 0.0F : 0.8F;
    one.sampling.seed = static_cast<uint64_t>(below(1 << 20));
    one.sampling.max_tokens = 1 + below(150);
    one.sampling.logprobs = kLogprobsMax;
    one.sampling.prompt_logprobs = below(4) == 0;
    one.sampling.ignore_eos = true;
    one.turn = below(60);
    if (below(6) == 0) one.cancelled_at = below(40);
  }
  return all;
}

// What was told of an answer, as far as it came.
void expect_same(const StepAnswer& made, const StepAnswer& alone, bool whole, RequestId id) {
  if (whole) {
    EXPECT_EQ(made.tokens.size(), alone.tokens.size()) << "request " << id;
  }
  ASSERT_LE(made.tokens.size(), alone.tokens.size()) << "request " << id;
  const auto same = [](const TokenLogprobs& a, const TokenLogprobs& b) {
    return a.chosen == b.chosen && a.top == b.top;
  };
  for (size_t i = 0; i < made.tokens.size(); ++i) {
    ASSERT_EQ(made.tokens[i], alone.tokens[i]) << "request " << id << ", token " << i;
    ASSERT_TRUE(same(made.logprobs.at(i), alone.logprobs.at(i)))
        << "request " << id << ", token " << i << ": " << made.logprobs[i].chosen << " and "
        << alone.logprobs[i].chosen;
  }
  for (size_t i = 0; i < std::min(made.prompt_logprobs.size(), alone.prompt_logprobs.size()); ++i) {
    ASSERT_TRUE(same(made.prompt_logprobs[i], alone.prompt_logprobs[i]))
        << "request " << id << ", prompt token " << i;
  }
}

// A tiny checkpoint, or the demo model with or without drafts of its own.
struct Case {
  std::string name;
  bool demo = false;
  int32_t drafts = 0;

  std::string directory() const {
    return demo ? source_folder(FATHOM_SOURCE_DIR) + "/deploy/demo-model"
                : families_directory() + "/" + name;
  }
  std::shared_ptr<const WeightSource> weights() const {
    if (demo) return Checkpoint::open(directory()).value();
    return SyntheticSource::open(directory(), 1, false).value();
  }
};

std::vector<Case> cases() {
  std::vector<Case> all{{"demo", true, 0}, {"demo_drafts", true, 1}};
  for (const std::string& name : family_names()) all.push_back({name});
  return all;
}

class CudaDeterministic : public ::testing::TestWithParam<Case> {};

TEST_P(CudaDeterministic, EveryRequestIsAsAlone) {
  const std::string directory = GetParam().directory();
  const auto weights = GetParam().weights();
  std::mt19937 random(7);
  const std::vector<Asked> asked = requests(random, 500);
  // Room for a few sequences only, so that they take it from each other.
  StepLoopOptions together{.rows = 12, .tokens_max = 160, .model_len = 512, .blocks = 12};
  together.drafts = GetParam().drafts;
  together.deterministic = true;
  together.answer_margin_tokens = 1;
  StepLoopOptions single = together;
  single.blocks = 80;
  ModelOptions options;
  options.tokens_max = together.model_len;
  options.draft_layers = GetParam().drafts;

  const auto serve = [&](const StepLoopOptions& shape, const auto& drive) {
    CudaOpsOptions made{Numerics::kNative, kArenaBytes};
    made.deterministic = true;
    const auto ops = CudaOps::make(made).value();
    const auto model = load_model(directory, *weights, *ops, {}, options).value();
    StepLoop loop(*ops, *model, shape);
    drive(loop);
    return std::pair{loop.answers(), loop.stats()};
  };
  const auto [alone, alone_stats] = serve(single, [&](StepLoop& loop) {
    for (size_t i = 0; i < asked.size(); ++i) {
      loop.submit(i + 1, asked[i].prompt, asked[i].sampling);
      loop.run_until_idle();
    }
  });
  const auto [loaded, stats] = serve(together, [&](StepLoop& loop) {
    for (int turn = 0; turn < 200; ++turn) {
      for (size_t i = 0; i < asked.size(); ++i) {
        if (asked[i].turn == turn) loop.submit(i + 1, asked[i].prompt, asked[i].sampling);
        if (asked[i].cancelled_at && asked[i].turn + *asked[i].cancelled_at == turn) {
          loop.cancel(i + 1);
        }
      }
      loop.turn();
    }
    loop.run_until_idle();
  });
  size_t tokens = 0;
  for (size_t i = 0; i < asked.size(); ++i) {
    const auto made = loaded.find(i + 1);
    if (made == loaded.end()) continue;  // cancelled before its first token
    const bool whole = !asked[i].cancelled_at.has_value();
    expect_same(made->second, alone.at(i + 1), whole, i + 1);
    tokens += made->second.tokens.size();
  }
  std::printf("%-24s %zu tokens, %lu preemptions\n", GetParam().name.c_str(), tokens,
              static_cast<unsigned long>(stats.preemptions_total));
  EXPECT_GT(stats.preemptions_total, 3U);
}

INSTANTIATE_TEST_SUITE_P(Families, CudaDeterministic, ::testing::ValuesIn(cases()),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace fathom::testing
