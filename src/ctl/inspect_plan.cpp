// Asks the engine's planner.
#include "ctl/inspect_plan.h"

#include <algorithm>
#include <memory>

#include "engine/memory_plan.h"
#include "ops/cuda/cuda_scratch.h"

namespace fathom::ctl {
namespace {

// A device of which only the size is known. Nothing runs on it.
class NamedSize final : public Backend {
 public:
  explicit NamedSize(int64_t bytes) : bytes_(bytes) {}
  std::string device_name() const override { return format_bytes(bytes_) + " ranks"; }
  Result<int64_t> memory_bytes_per_rank(const RankGrid&, double fraction) override {
    return static_cast<int64_t>(static_cast<double>(bytes_) * fraction);
  }
  Result<std::unique_ptr<Ops>> make_ops(const OpsSetup&) override { return planned_only(); }
  Result<std::vector<Groups>> make_groups(const RankGrid&) override { return planned_only(); }

 private:
  static Status planned_only() { return unimplemented("this device exists in a plan alone"); }
  int64_t bytes_;
};

// A GPU of which only the size is known, planned for as the CUDA backend plans.
class NamedGpu final : public Backend {
 public:
  explicit NamedGpu(int64_t bytes) : size_(bytes) {}
  std::string device_name() const override { return "GPU, " + size_.device_name(); }
  Result<int64_t> memory_bytes_per_rank(const RankGrid& grid, double fraction) override {
    FATHOM_ASSIGN(const int64_t bytes, size_.memory_bytes_per_rank(grid, fraction));
    return std::max<int64_t>(0, bytes - kCudaBesidePlanBytes);
  }
  std::unique_ptr<ScratchBounds> scratch_bounds(Numerics numerics) const override {
    constexpr int32_t kMultiprocessors = 132;  // of an H100
    return std::make_unique<CudaScratch>(numerics, kMultiprocessors);
  }
  int64_t workspace_bytes(int64_t counted_bytes) const override {
    return counted_bytes + kCudaSpareBytes;
  }
  Result<std::unique_ptr<Ops>> make_ops(const OpsSetup& setup) override {
    return size_.make_ops(setup);
  }
  Result<std::vector<Groups>> make_groups(const RankGrid& grid) override {
    return size_.make_groups(grid);
  }

 private:
  NamedSize size_;
};

EngineOptions::Device device_of(const std::string& name) {
  if (name == "cuda") return EngineOptions::Device::kCuda;
  return name == "cpu" ? EngineOptions::Device::kCpu : EngineOptions::Device::kAuto;
}

PackWeights packing_of(const std::string& name) {
  if (name == "on") return PackWeights::kOn;
  return name == "auto" ? PackWeights::kAuto : PackWeights::kOff;
}

EngineOptions engine_options(const InspectOptions& options, const std::string& directory,
                             bool has_weights) {
  EngineOptions engine;
  engine.model_dir = directory;
  engine.load_format =
      has_weights ? EngineOptions::LoadFormat::kSafetensors : EngineOptions::LoadFormat::kSynthetic;
  engine.numerics = options.kv_dtype == "float32" ? Numerics::kReference : Numerics::kNative;
  engine.fp8_cache = options.kv_dtype == "fp8";
  engine.device = device_of(options.device);
  engine.pack_weights = packing_of(options.pack_weights);
  engine.tensor_parallel = static_cast<int32_t>(options.tensor_parallel);
  engine.pipeline_parallel = static_cast<int32_t>(options.pipeline_parallel);
  engine.max_num_seqs = static_cast<int32_t>(options.max_num_seqs);
  engine.max_num_batched_tokens = static_cast<int32_t>(options.max_num_batched_tokens);
  engine.speculative_tokens = static_cast<int32_t>(options.speculative_tokens);
  if (options.max_model_len) engine.max_model_len = static_cast<int32_t>(*options.max_model_len);
  return engine;
}

Result<MemoryPlan> plan(const EngineOptions& engine, const InspectOptions& options) {
  if (!options.memory_per_rank) return plan_memory(engine);
  FATHOM_ASSIGN(const std::shared_ptr<const WeightSource> weights, open_weights(engine, true));
  NamedSize size(*options.memory_per_rank);
  NamedGpu gpu(*options.memory_per_rank);
  Backend& device = options.device == "cuda" ? static_cast<Backend&>(gpu) : size;
  return plan_memory(engine, *weights, device);
}

}  // namespace

InspectPlan make_plan(const InspectOptions& options, const std::string& directory,
                      bool has_weights) {
  InspectPlan result;
  const EngineOptions engine = engine_options(options, directory, has_weights);
  const Result<MemoryPlan> made = plan(engine, options);
  if (!made.is_ok()) {
    result.why = made.status().message();
    return result;
  }
  result.fits = true;
  result.table = made->table();
  for (const StageMemory& stage : made->stages) {
    result.stages.push_back({stage.weight_bytes, stage.packed_bytes,
                             int64_t{made->blocks} * stage.kv_block_bytes, stage.workspace_bytes,
                             stage.fixed_bytes});
  }
  result.kv_blocks = made->blocks - 1;
  result.block_tokens = made->cache.block_tokens;
  result.max_model_len = made->max_model_len;
  return result;
}

}  // namespace fathom::ctl
