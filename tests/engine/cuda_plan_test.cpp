// The memory plan of whole models on an 80 GB GPU, without one.
#include <gtest/gtest.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "ctl/presets.h"
#include "engine/memory_plan.h"
#include "ops/cuda/cuda_scratch.h"
#include "support/test_config.h"

namespace fathom {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;

// An H100 with nothing else on it, as the CUDA backend reports one.
class PlannedGpu final : public Backend {
 public:
  std::string device_name() const override { return "H100"; }
  Result<int64_t> memory_bytes_per_rank(const RankGrid&, double fraction) override {
    return static_cast<int64_t>(fraction * 81559.0 * static_cast<double>(kMiB)) - 800 * kMiB;
  }
  std::unique_ptr<ScratchBounds> scratch_bounds(Numerics numerics) const override {
    return std::make_unique<CudaScratch>(numerics, 132);
  }
  Result<std::unique_ptr<Ops>> make_ops(const OpsSetup&) override { return unimplemented("plan"); }
  Result<std::vector<Groups>> make_groups(const RankGrid&) override {
    return unimplemented("plan");
  }
};

MemoryPlan plan_of(const char* preset, EngineOptions options) {
  auto config = nlohmann::json::parse(*ctl::preset_config(preset));
  config["quantization_config"] = {{"quant_method", "fp8"},
                                   {"fmt", "e4m3"},
                                   {"weight_block_size", {128, 128}},
                                   {"activation_scheme", "dynamic"}};
  const testing::ModelDirectory directory{config};
  options.model_dir = directory.path();
  options.load_format = EngineOptions::LoadFormat::kSynthetic;
  const auto weights = open_weights(options, true);
  EXPECT_TRUE(weights.is_ok()) << weights.status().to_string();
  PlannedGpu gpu;
  const auto plan = plan_memory(options, **weights, gpu);
  EXPECT_TRUE(plan.is_ok()) << plan.status().to_string();
  if (plan.is_ok()) std::printf("%s, %d sequences\n%s", preset, options.max_num_seqs,
                                plan->table().c_str());
  return plan.is_ok() ? *plan : MemoryPlan{};
}

EngineOptions serving(int32_t sequences) {
  EngineOptions options;
  options.max_num_seqs = sequences;
  options.max_num_batched_tokens = 8192;
  options.max_model_len = 4096;
  return options;
}

// 8192 tokens' experts and 768 rows of logits: below a gigabyte, where 8192 rows of logits in
// float32 alone would be 3.4 GB.
TEST(CudaPlan, AStepOfV2LiteTakesUnderAGigabyte) {
  const MemoryPlan plan = plan_of("v2-lite", serving(256));
  ASSERT_EQ(plan.stages.size(), 1U);
  EXPECT_LT(plan.stages[0].workspace_bytes, 1000 * kMiB);
  EXPECT_GT(plan.stages[0].workspace_bytes, 400 * kMiB);
}

// 1,024 sequences of 2,048 tokens: 27 layers of 656 bytes a token, 37 GB.
TEST(CudaPlan, AnFp8CacheOfV2LiteHoldsAThousandSequences) {
  EngineOptions options = serving(1024);
  options.fp8_cache = true;
  const MemoryPlan plan = plan_of("v2-lite", options);
  ASSERT_EQ(plan.stages.size(), 1U);
  EXPECT_GT(int64_t{plan.blocks - 1} * plan.cache.block_tokens, 1024 * 2048);
}

// In bfloat16 the same tokens are 64 GB, more than 0.9 of 80 GB leave beside the weights.
TEST(CudaPlan, ABf16CacheOfV2LiteHoldsMostOfThem) {
  const MemoryPlan plan = plan_of("v2-lite", serving(1024));
  ASSERT_EQ(plan.stages.size(), 1U);
  EXPECT_GT(int64_t{plan.blocks - 1} * plan.cache.block_tokens, 1024 * 1750);
}

}  // namespace
}  // namespace fathom
