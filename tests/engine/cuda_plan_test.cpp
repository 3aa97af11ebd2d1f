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
  explicit PlannedGpu(double mib = 81559.0) : mib_(mib) {}
  std::string device_name() const override { return "H100"; }
  Result<int64_t> memory_bytes_per_rank(const RankGrid&, double fraction) override {
    return static_cast<int64_t>(fraction * mib_ * static_cast<double>(kMiB)) - 800 * kMiB;
  }
  std::unique_ptr<ScratchBounds> scratch_bounds(Numerics numerics) const override {
    return std::make_unique<CudaScratch>(numerics, 132);
  }
  Result<std::unique_ptr<Ops>> make_ops(const OpsSetup&) override { return unimplemented("plan"); }
  Result<std::vector<Groups>> make_groups(const RankGrid&) override {
    return unimplemented("plan");
  }

 private:
  const double mib_;
};

Result<MemoryPlan> plan_config(const nlohmann::json& config, EngineOptions options,
                               Backend& device) {
  const testing::ModelDirectory directory{config};
  options.model_dir = directory.path();
  options.load_format = EngineOptions::LoadFormat::kSynthetic;
  FATHOM_ASSIGN(const auto weights, open_weights(options, true));
  return plan_memory(options, *weights, device);
}

MemoryPlan plan_of(const char* preset, const EngineOptions& options) {
  auto config = nlohmann::json::parse(*ctl::preset_config(preset));
  config["quantization_config"] = {{"quant_method", "fp8"},
                                   {"fmt", "e4m3"},
                                   {"weight_block_size", {128, 128}},
                                   {"activation_scheme", "dynamic"}};
  PlannedGpu gpu;
  const auto plan = plan_config(config, options, gpu);
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

// Llama-8B in bfloat16: 16 GB, of which all but the embedding and the norms are matrices of linear
// layers.
Result<MemoryPlan> llama_plan(PackWeights pack, double mib, int32_t longest = 4096) {
  auto options = serving(64);
  options.max_model_len = longest;
  options.pack_weights = pack;
  PlannedGpu gpu(mib);
  return plan_config(nlohmann::json::parse(*ctl::preset_config("llama-8b")), options, gpu);
}

TEST(CudaPlan, PackedWeightsTakeThreeQuartersOfTheirMatrices) {
  constexpr double kGpu = 81559.0;
  const auto plain = llama_plan(PackWeights::kOff, kGpu);
  const auto packed = llama_plan(PackWeights::kOn, kGpu);
  ASSERT_TRUE(plain.is_ok() && packed.is_ok());
  const StageMemory& stage = packed->stages[0];
  EXPECT_EQ(plain->stages[0].packed_bytes, 0);
  EXPECT_EQ(plain->table().find("packed weights"), std::string::npos);
  EXPECT_NE(packed->table().find("packed weights"), std::string::npos) << packed->table();
  const double matrices = 2.0 * (32 * 218.1e6 + 128256 * 4096);
  EXPECT_GT(static_cast<double>(stage.packed_bytes), 0.75 * matrices);
  EXPECT_LT(static_cast<double>(stage.packed_bytes), 0.80 * matrices);
  // The cache has what is left.
  EXPECT_NEAR(static_cast<double>(plain->kv_bytes() - packed->kv_bytes()),
              static_cast<double>(stage.packed_bytes), 2.0 * stage.kv_block_bytes);
  EXPECT_LE(packed->total_bytes(), packed->available_bytes_per_rank);
}

TEST(CudaPlan, AutoPacksWhereTheCacheKeepsHalfOfItsMemory) {
  EXPECT_TRUE(llama_plan(PackWeights::kAuto, 81559.0)->packs_weights());
  // 36 GB for the plan: 19 beside the weights, of which the packed ones would take 12.
  EXPECT_FALSE(llama_plan(PackWeights::kAuto, 40960.0)->packs_weights());
  EXPECT_TRUE(llama_plan(PackWeights::kOn, 40960.0)->packs_weights());
  // A sequence that only the whole cache holds is worth more.
  EXPECT_TRUE(llama_plan(PackWeights::kAuto, 48000.0, 65536)->packs_weights());
  EXPECT_FALSE(llama_plan(PackWeights::kAuto, 48000.0, 131072)->packs_weights());
}

// Its vocabulary is little of what a step reads, and as much of the cache.
TEST(CudaPlan, AutoLeavesAnFp8CheckpointPlain) {
  EngineOptions options = serving(64);
  options.pack_weights = PackWeights::kAuto;
  EXPECT_FALSE(plan_of("llama-8b", options).packs_weights());
  options.pack_weights = PackWeights::kOn;
  const MemoryPlan plan = plan_of("llama-8b", options);
  ASSERT_TRUE(plan.packs_weights());
  EXPECT_EQ(plan.stages[0].packed_bytes, int64_t{128256} / 64 * 64 * 6272);
}

TEST(CudaPlan, PackingIsRefusedWhereNothingCanBePacked) {
  auto config = nlohmann::json::parse(*ctl::preset_config("llama-8b"));
  auto options = serving(64);
  options.pack_weights = PackWeights::kOn;
  class NoBounds final : public Backend {
   public:
    std::string device_name() const override { return "cpu"; }
    Result<int64_t> memory_bytes_per_rank(const RankGrid&, double) override {
      return int64_t{64} << 30;
    }
    Result<std::unique_ptr<Ops>> make_ops(const OpsSetup&) override { return unimplemented("no"); }
    Result<std::vector<Groups>> make_groups(const RankGrid&) override {
      return unimplemented("no");
    }
  } cpu;
  EXPECT_EQ(plan_config(config, options, cpu).status().subject(), "pack_weights");
  options.pack_weights = PackWeights::kAuto;
  const auto plan = plan_config(config, options, cpu);
  ASSERT_TRUE(plan.is_ok()) << plan.status().to_string();
  EXPECT_FALSE(plan->packs_weights());
}

}  // namespace
}  // namespace fathom
