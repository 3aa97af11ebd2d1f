// The demo model's decode and verify steps, captured once before the first request and replayed
// while sequences join, grow, reject drafts, are cancelled and leave, with two plans in flight.
// Tokens are compared with the CPU's. Needs a GPU.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>

#include "base/file.h"
#include "base/json.h"
#include "engine/capture_shapes.h"
#include "ops/cpu/cpu_ops.h"
#include "ops/cuda/cuda_ops.h"
#include "support/source_folder.h"
#include "support/step_loop.h"
#include "weights/checkpoint.h"

namespace fathom::testing {
namespace {

constexpr int32_t kRequests = 360;
constexpr StepLoopOptions kOptions{
    .rows = 16, .tokens_max = 128, .model_len = 1024, .drafts = 1, .blocks = 180};

struct Asked {
  std::vector<TokenId> prompt;
  SamplingParams sampling;
  int32_t turns_after = 0;  // before the next one arrives
  bool cancelled = false;
};

// The golden prompts, each several times with more or less of its answer.
std::vector<Asked> requests() {
  const auto text =
      read_file(source_folder(FATHOM_SOURCE_DIR) + "/tests/demo/goldens/greedy.json", 64U << 20);
  const Json cases = parse_json(text.value()).value()["cases"];
  std::mt19937 random(11);
  std::vector<Asked> all;
  for (size_t i = 0; i < kRequests; ++i) {
    const Json& golden = cases[i % cases.size()];
    Asked asked;
    asked.prompt = golden["prompt"].get<std::vector<TokenId>>();
    const auto answer = golden["tokens"].get<std::vector<TokenId>>();
    const auto known = static_cast<int64_t>(random() % (answer.size() / 2 + 1));
    asked.prompt.insert(asked.prompt.end(), answer.begin(), answer.begin() + known);
    asked.sampling.temperature = 0.0F;
    asked.sampling.max_tokens = static_cast<int32_t>(8 + random() % 40);
    asked.sampling.logprobs = 2;
    asked.turns_after = static_cast<int32_t>(random() % 20);
    asked.cancelled = i % 10 == 9;
    all.push_back(asked);
  }
  return all;
}

struct Served {
  std::map<RequestId, StepAnswer> answers;
  EngineStats stats;
  int32_t in_flight_max = 0;
};

Served serve(Ops& ops, const std::string& directory, const std::vector<Asked>& all) {
  auto checkpoint = Checkpoint::open(directory);
  EXPECT_TRUE(checkpoint.is_ok()) << checkpoint.status().to_string();
  ModelOptions options;
  options.tokens_max = kOptions.model_len;
  options.draft_layers = kOptions.drafts;
  auto model = load_model(directory, **checkpoint, ops, {}, options);
  EXPECT_TRUE(model.is_ok()) << model.status().to_string();
  StepLoop loop(ops, **model, kOptions);
  RequestId id = 0;
  for (const Asked& asked : all) {
    loop.submit(++id, asked.prompt, asked.sampling);
    for (int32_t i = 0; i < asked.turns_after; ++i) loop.turn();
    if (asked.cancelled) loop.cancel(id);
  }
  loop.run_until_idle();
  return {loop.answers(), loop.stats(), loop.in_flight_max()};
}

// Positions of both up to each answer's first difference.
struct Compared {
  struct Position {
    float margin;
    bool equal;
  };
  std::vector<Position> positions;
  float error = 0.0F;  // largest difference of two log-probabilities of one token
};

void compare(const StepAnswer& cpu, const StepAnswer& gpu, Compared& all) {
  const size_t count = std::min(cpu.tokens.size(), gpu.tokens.size());
  for (size_t i = 0; i < count; ++i) {
    const TokenLogprobs& a = cpu.logprobs[i];
    const bool equal = cpu.tokens[i] == gpu.tokens[i];
    all.positions.push_back({a.top[0].second - a.top[1].second, equal});
    if (!equal) return;
    all.error = std::max(all.error, std::fabs(a.chosen - gpu.logprobs[i].chosen));
  }
}

TEST(CudaReplay, CapturedStepsServeChangingBatches) {
  const std::string directory = source_folder(FATHOM_SOURCE_DIR) + "/deploy/demo-model";
  const std::vector<Asked> asked_all = requests();
  auto cpu_ops =
      make_cpu_ops({.numerics = Numerics::kNative, .threads = 8, .arena_bytes = 128 << 20});
  const Served cpu = serve(*cpu_ops, directory, asked_all);
  auto made = CudaOps::make({Numerics::kNative, 512 << 20, false});
  ASSERT_TRUE(made.is_ok()) << made.status().to_string();
  const Served gpu = serve(**made, directory, asked_all);

  const int64_t captured = 2 * static_cast<int64_t>(row_buckets(kOptions.rows).size());
  EXPECT_EQ((*made)->graph_count(), captured) << "two frames of every bucket, and none later";
  EXPECT_GE((*made)->replay_count(), 2000);
  EXPECT_EQ(gpu.in_flight_max, 2);
  EXPECT_GT(gpu.stats.accepted_draft_tokens_total, 0U);
  EXPECT_GT(gpu.stats.drafted_tokens_total, gpu.stats.accepted_draft_tokens_total);
  Compared all;
  RequestId id = 0;
  for (const Asked& asked : asked_all) {
    ++id;
    const StepAnswer& answer = gpu.answers.at(id);
    EXPECT_NE(answer.reason, FinishReason::kNone) << "request " << id << " was lost";
    if (asked.cancelled) continue;
    EXPECT_FALSE(answer.tokens.empty());
    compare(cpu.answers.at(id), answer, all);
  }
  int64_t counted = 0;
  int64_t counted_equal = 0;
  for (const auto& [margin, equal] : all.positions) {
    counted += margin > 4 * all.error ? 1 : 0;
    counted_equal += margin > 4 * all.error && equal ? 1 : 0;
  }
  std::printf(
      "%ld replays of %ld graphs; drafts %lu, accepted %lu; %zu positions, largest logprob error "
      "%.4f, counted %ld, equal %ld\n",
      static_cast<long>((*made)->replay_count()), static_cast<long>((*made)->graph_count()),
      static_cast<unsigned long>(gpu.stats.drafted_tokens_total),
      static_cast<unsigned long>(gpu.stats.accepted_draft_tokens_total), all.positions.size(),
      static_cast<double>(all.error), static_cast<long>(counted), static_cast<long>(counted_equal));
  EXPECT_EQ(counted_equal, counted);
  EXPECT_GE(static_cast<double>(counted), 0.6 * static_cast<double>(all.positions.size()));
}

}  // namespace
}  // namespace fathom::testing
