// The whole engine over a tiny DeepSeek-V3 on the CPU backend, against the model called directly.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "engine/backends.h"
#include "engine/engine_loader.h"
#include "engine/local_engine.h"
#include "engine/memory_plan.h"
#include "model/tiny_model.h"
#include "stream_drain.h"

namespace fathom::testing {
namespace {

constexpr float kTolerance = 1e-4F;  // of a logprob, between splits over ranks

struct EngineRig {
  ModelDirectory directory{tiny_config()};
  std::shared_ptr<const WeightSource> weights;
  std::unique_ptr<LocalEngine> engine;

  // `answer_margin_tokens`: what admission wants free for an answer.
  explicit EngineRig(EngineOptions options = tiny_options(), int32_t answer_margin_tokens = 128) {
    options.model_dir = directory.path();
    const DeepseekConfig config = read_deepseek_config(directory.path()).value();
    weights = {std::shared_ptr<void>(), &tiny_checkpoint(config, HashFormat::kFp8, false)};
    auto loaded = load_engine_from(options, weights, *weights, {});
    EXPECT_TRUE(loaded.is_ok()) << loaded.status().to_string();
    loaded->scheduler.answer_margin_tokens = answer_margin_tokens;
    LocalEngineOptions local{loaded->scheduler, loaded->layout, loaded->info, {}};
    engine = LocalEngine::start(std::move(loaded->executor), std::move(local)).value();
  }

  static EngineOptions tiny_options() {
    EngineOptions options;
    options.numerics = Numerics::kReference;
    options.device = EngineOptions::Device::kCpu;
    options.max_num_seqs = 8;
    options.max_num_batched_tokens = 64;
    options.block_tokens = 16;
    options.threads = 1;
    return options;
  }

  std::unique_ptr<TokenStream> submit(const std::vector<TokenId>& prompt,
                                      const SamplingParams& sampling) {
    Request request;
    request.prompt = prompt;
    request.sampling = sampling;
    auto stream = engine->submit(std::move(request));
    EXPECT_TRUE(stream.is_ok()) << stream.status().to_string();
    return std::move(*stream);
  }
  Drained answer(const std::vector<TokenId>& prompt, const SamplingParams& sampling) {
    return drain_stream(*submit(prompt, sampling), std::chrono::seconds(60));
  }
};

StepDriver::Generated direct(const std::vector<TokenId>& prompt, const SamplingParams& sampling) {
  TinyModel model{TinyOptions{}};
  return model.driver->generate(prompt, sampling);
}

void expect_close(const std::vector<TokenLogprobs>& a, const std::vector<TokenLogprobs>& b,
                  float tolerance) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_NEAR(a[i].chosen, b[i].chosen, tolerance) << i;
    ASSERT_EQ(a[i].top.size(), b[i].top.size());
    for (size_t k = 0; k < a[i].top.size(); ++k) {
      EXPECT_NEAR(a[i].top[k].second, b[i].top[k].second, tolerance) << i;
    }
  }
}

// log softmax of `logits` at `token`.
float logprob_of(const std::vector<float>& logits, TokenId token) {
  double sum = 0.0;
  const float top = *std::max_element(logits.begin(), logits.end());
  for (float x : logits) sum += std::exp(static_cast<double>(x - top));
  return static_cast<float>(logits[static_cast<size_t>(token)] - top - std::log(sum));
}

TEST(ModelEngine, EqualsTheModelCalledDirectly) {
  EngineRig rig;
  SamplingParams sampling = greedy(20);
  sampling.logprobs = 3;
  for (int32_t length : {1, 15, 16, 17, 70, 130}) {
    const auto prompt = prompt_of(length, static_cast<uint32_t>(length));
    const auto expected = direct(prompt, sampling);
    const Drained out = rig.answer(prompt, sampling);
    EXPECT_EQ(out.reason, FinishReason::kLength);
    EXPECT_EQ(out.tokens, expected.tokens) << "prompt of " << length;
    expect_close(out.logprobs, expected.logprobs, 1e-5F);
  }
}

TEST(ModelEngine, PromptLogprobsAreThoseOfThePrompt) {
  EngineRig rig;
  SamplingParams sampling = greedy(3);
  sampling.logprobs = 2;
  sampling.prompt_logprobs = true;
  const auto prompt = prompt_of(150, 5);  // three chunks of at most 64 tokens
  const auto expected = direct(prompt, sampling);
  const Drained out = rig.answer(prompt, sampling);
  EXPECT_EQ(out.tokens, expected.tokens);
  ASSERT_EQ(out.prompt_logprobs.size(), prompt.size() - 1);
  for (size_t i = 0; i + 1 < prompt.size(); ++i) {
    EXPECT_NEAR(out.prompt_logprobs[i].chosen, logprob_of(expected.prompt_logits[i], prompt[i + 1]),
                1e-4F);
    EXPECT_EQ(out.prompt_logprobs[i].top.size(), 2U);
  }
}

TEST(ModelEngine, AnswersDoNotDependOnTheBatch) {
  EngineRig rig;
  SamplingParams sampling;
  sampling.temperature = 0.9F;
  sampling.top_p = 0.95F;
  sampling.max_tokens = 25;
  sampling.ignore_eos = true;
  std::vector<std::unique_ptr<TokenStream>> streams;
  std::vector<Drained> alone;
  for (uint32_t i = 0; i < 12; ++i) {
    sampling.seed = 1000 + i;
    alone.push_back(rig.answer(prompt_of(10 + 9 * static_cast<int32_t>(i), i), sampling));
  }
  for (uint32_t i = 0; i < 12; ++i) {
    sampling.seed = 1000 + i;
    streams.push_back(rig.submit(prompt_of(10 + 9 * static_cast<int32_t>(i), i), sampling));
  }
  for (size_t i = 0; i < streams.size(); ++i) {
    const Drained out = drain_stream(*streams[i], std::chrono::seconds(60));
    EXPECT_EQ(out.tokens, alone[i].tokens) << i;
  }
}

TEST(ModelEngine, APrefixHitChangesNothing) {
  EngineRig rig;
  const auto prompt = prompt_of(100, 3);
  const Drained first = rig.answer(prompt, greedy(15));
  const Drained second = rig.answer(prompt, greedy(15));
  EXPECT_EQ(first.cached_tokens, 0);
  EXPECT_EQ(second.cached_tokens, 96);
  EXPECT_EQ(second.tokens, first.tokens);
}

TEST(ModelEngine, PreemptionChangesNothing) {
  EngineOptions options = EngineRig::tiny_options();
  options.prefix_caching = false;
  EngineRig roomy(options);
  std::vector<Drained> expected;
  for (uint32_t i = 0; i < 6; ++i) expected.push_back(roomy.answer(prompt_of(40, i), greedy(150)));

  const int64_t block_bytes = int64_t{3} * 16 * 576 * 4;
  options.kv_cache_bytes = 32 * block_bytes;  // at their end six sequences want 72
  options.max_model_len = 200;
  EngineRig tight(options, 0);
  std::vector<std::unique_ptr<TokenStream>> streams;
  for (uint32_t i = 0; i < 6; ++i) streams.push_back(tight.submit(prompt_of(40, i), greedy(150)));
  for (size_t i = 0; i < streams.size(); ++i) {
    EXPECT_EQ(drain_stream(*streams[i], std::chrono::seconds(60)).tokens, expected[i].tokens);
  }
  EXPECT_GT(tight.engine->stats().preemptions_total, 0U);
}

struct SplitCase {
  const char* name;
  int32_t tensor;
  int32_t pipeline;
  int32_t drafts;
};

class SplitTest : public ::testing::TestWithParam<SplitCase> {};

TEST_P(SplitTest, EqualsOneRank) {
  EngineRig alone;
  EngineOptions options = EngineRig::tiny_options();
  options.tensor_parallel = GetParam().tensor;
  options.pipeline_parallel = GetParam().pipeline;
  options.speculative_tokens = GetParam().drafts;
  EngineRig split(options);
  SamplingParams sampling = greedy(24);
  sampling.logprobs = 3;
  std::vector<std::unique_ptr<TokenStream>> streams;
  for (uint32_t i = 0; i < 6; ++i) {
    streams.push_back(split.submit(prompt_of(5 + 20 * static_cast<int32_t>(i), i), sampling));
  }
  int32_t drafted = 0;
  for (uint32_t i = 0; i < 6; ++i) {
    const Drained expected = alone.answer(prompt_of(5 + 20 * static_cast<int32_t>(i), i), sampling);
    const Drained out = drain_stream(*streams[i], std::chrono::seconds(60));
    EXPECT_EQ(out.tokens, expected.tokens) << i;
    expect_close(out.logprobs, expected.logprobs, kTolerance);
    drafted += out.drafted;
  }
  EXPECT_EQ(drafted > 0, GetParam().drafts > 0);
  EXPECT_TRUE(split.engine->health().status.is_ok());
}

INSTANTIATE_TEST_SUITE_P(
    Ranks, SplitTest,
    ::testing::Values(SplitCase{"OneWithDrafts", 1, 1, 1}, SplitCase{"Tp2", 2, 1, 0},
                      SplitCase{"Tp4WithDrafts", 4, 1, 1}, SplitCase{"Pp2", 1, 2, 0},
                      SplitCase{"Pp2WithDrafts", 1, 2, 1}, SplitCase{"Pp3", 1, 3, 0},
                      SplitCase{"Tp2Pp2WithDrafts", 2, 2, 1}),
    [](const auto& info) { return info.param.name; });

// A directory with nothing but config.json.
TEST(ModelEngine, ServesGeneratedWeights) {
  const ModelDirectory directory{tiny_config()};
  EngineOptions options = EngineRig::tiny_options();
  options.model_dir = directory.path();
  options.load_format = EngineOptions::LoadFormat::kSynthetic;
  options.seed = 3;
  std::vector<double> progress;
  auto engine = LocalEngine::load(options, [&](double p) { progress.push_back(p); });
  ASSERT_TRUE(engine.is_ok()) << engine.status().to_string();
  EXPECT_EQ((*engine)->health().state, EngineState::kReady);
  EXPECT_EQ((*engine)->info().model.layers, 3);
  EXPECT_FALSE(progress.empty());
  EXPECT_TRUE(std::is_sorted(progress.begin(), progress.end()));
  Request request;
  request.prompt = prompt_of(20, 1);
  request.sampling = greedy(8);
  auto stream = (*engine)->submit(request);
  ASSERT_TRUE(stream.is_ok());
  EXPECT_EQ(drain_stream(**stream).tokens.size(), 8U);
}

// Says that it has all the memory of the world, and gives none.
class BoastfulBackend final : public Backend {
 public:
  std::string device_name() const override { return "boaster"; }
  Result<int64_t> memory_bytes_per_rank(const RankGrid&, double) override {
    return int64_t{1} << 40;
  }
  Result<std::unique_ptr<Ops>> make_ops(const OpsSetup&) override {
    return resource_exhausted("device memory: out of memory");
  }
  Result<std::vector<Groups>> make_groups(const RankGrid&) override {
    return std::vector<Groups>(1);
  }
};

TEST(ModelEngine, AFailedAllocationAtStartIsRefusedWithThePlan) {
  const ModelDirectory directory{tiny_config()};
  const DeepseekConfig config = read_deepseek_config(directory.path()).value();
  const auto weights = std::make_shared<const HashCheckpoint>(config, HashFormat::kFp8);
  EngineOptions options = EngineRig::tiny_options();
  options.model_dir = directory.path();
  const auto refused =
      load_engine_on(std::make_unique<BoastfulBackend>(), options, weights, *weights, {});
  ASSERT_FALSE(refused.is_ok());
  EXPECT_EQ(refused.status().code(), Code::kResourceExhausted);
  for (const char* part : {"out of memory", "weights", "KV cache", "step workspace", "available"}) {
    EXPECT_NE(refused.status().message().find(part), std::string::npos)
        << refused.status().message();
  }
}

TEST(ModelEngine, DeterministicIsRefusedWhereADeviceDoesNotHaveIt) {
  const ModelDirectory directory{tiny_config()};
  const DeepseekConfig config = read_deepseek_config(directory.path()).value();
  const auto weights = std::make_shared<const HashCheckpoint>(config, HashFormat::kFp8);
  EngineOptions options = EngineRig::tiny_options();
  options.model_dir = directory.path();
  options.deterministic = true;
  const auto refused =
      load_engine_on(std::make_unique<BoastfulBackend>(), options, weights, *weights, {});
  ASSERT_FALSE(refused.is_ok());
  EXPECT_EQ(refused.status().code(), Code::kUnimplemented);
  EXPECT_NE(refused.status().message().find("boaster"), std::string::npos);
  EXPECT_TRUE(load_engine_from(options, weights, *weights, {}).is_ok());
}

TEST(MemoryPlanTest, PlansWhatFitsAndRefusesTheRest) {
  const ModelDirectory directory{tiny_config()};
  const DeepseekConfig config = read_deepseek_config(directory.path()).value();
  const HashCheckpoint weights(config, HashFormat::kFp8);
  EngineOptions options = EngineRig::tiny_options();
  options.model_dir = directory.path();
  auto backend = make_cpu_backend();

  options.kv_cache_bytes = int64_t{3} * 16 * 576 * 4 * 40;
  auto plan = plan_memory(options, weights, *backend);
  ASSERT_TRUE(plan.is_ok()) << plan.status().to_string();
  EXPECT_EQ(plan->blocks, 40);
  EXPECT_EQ(plan->kv_bytes(), *options.kv_cache_bytes);
  EXPECT_GT(plan->stages[0].weight_bytes, 0);
  EXPECT_GT(plan->stages[0].workspace_bytes, 0);
  EXPECT_NE(plan->table().find("39 blocks of 16 tokens"), std::string::npos) << plan->table();

  options.kv_cache_bytes = 1000;
  const Status refused = plan_memory(options, weights, *backend).status();
  EXPECT_EQ(refused.code(), Code::kResourceExhausted);
  EXPECT_NE(refused.message().find("step workspace"), std::string::npos) << refused.message();

  options.kv_cache_bytes = int64_t{1} << 50;
  EXPECT_EQ(plan_memory(options, weights, *backend).status().subject(), "kv_cache_memory_bytes");

  options.kv_cache_bytes.reset();
  options.max_model_len = 257;
  EXPECT_EQ(plan_memory(options, weights, *backend).status().subject(), "max_model_len");
  options.max_model_len.reset();
  options.pipeline_parallel = 4;
  EXPECT_EQ(plan_memory(options, weights, *backend).status().subject(), "pipeline_parallel_size");
}

// A device of its own memory: only its name and size are asked by the plan.
class NamedBackend final : public Backend {
 public:
  NamedBackend(std::string name, int64_t bytes) : name_(std::move(name)), bytes_(bytes) {}
  std::string device_name() const override { return name_; }
  Result<int64_t> memory_bytes_per_rank(const RankGrid&, double) override { return bytes_; }
  Result<std::unique_ptr<Ops>> make_ops(const OpsSetup&) override { return refused(); }
  Result<std::vector<Groups>> make_groups(const RankGrid&) override { return refused(); }

 private:
  static Status refused() { return internal_error("planned with alone"); }

  std::string name_;
  int64_t bytes_;
};

TEST(MemoryPlanTest, ACacheTakesAllOfAGpuAndOfAHostWhatSequencesNeed) {
  const ModelDirectory directory{tiny_config()};
  const DeepseekConfig config = read_deepseek_config(directory.path()).value();
  const HashCheckpoint weights(config, HashFormat::kFp8);
  EngineOptions options = EngineRig::tiny_options();
  options.model_dir = directory.path();
  constexpr int64_t kBytes = int64_t{8} << 30;

  NamedBackend gpu("a GPU", kBytes);
  const auto on_gpu = plan_memory(options, weights, gpu);
  ASSERT_TRUE(on_gpu.is_ok()) << on_gpu.status().to_string();
  EXPECT_LE(on_gpu->total_bytes(), kBytes);
  EXPECT_GT(on_gpu->total_bytes(), kBytes - on_gpu->stages[0].kv_block_bytes);

  NamedBackend host("cpu", kBytes);
  const auto on_host = plan_memory(options, weights, host);
  ASSERT_TRUE(on_host.is_ok()) << on_host.status().to_string();
  EXPECT_EQ(on_host->blocks, options.max_num_seqs * on_host->slots.blocks_max + 1);
}

}  // namespace
}  // namespace fathom::testing
