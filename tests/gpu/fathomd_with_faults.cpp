// fathomd with an engine that breaks, or does without Hopper's units, when it is asked to: by a
// request's seed in a step, or by the model's seed at start. A program of its own, so that fathomd
// has no way to be asked.
// tests/gpu/test_runtime.py drives it.
#include <cstdio>
#include <map>
#include <optional>
#include <string_view>
#include <utility>

#include "config/config.h"
#include "daemon/daemon.h"
#include "engine/engine_loader.h"
#include "engine/engine_process.h"
#include "engine/memory_plan.h"
#include "ops/cuda/backend.h"
#include "ops/cuda/cuda_ops.h"
#include "planted_faults.h"

extern char** environ;

namespace fathom::testing {
namespace {

// Seeds of requests; the fault lies in front of the step of their kCleanSteps-th next token, so
// that the client has tokens already and the request is not sent again.
constexpr uint64_t kIllegalReadSeed = 7001;
constexpr uint64_t kTrapSeed = 7002;
constexpr uint64_t kEndlessSeed = 7003;
constexpr int32_t kCleanSteps = 8;
// Seed of the model: the device says that it has twice the memory that it has.
constexpr uint64_t kBoastfulSeed = 7101;
// Seed of the model: it runs on the kernels of every architecture, as on a GPU before Hopper.
constexpr uint64_t kNeutralSeed = 7102;

// Keeps a hand on the stream of the one rank.
class FaultBackend final : public Backend {
 public:
  FaultBackend(std::unique_ptr<CudaBackend> inner, bool boasts)
      : inner_(std::move(inner)), boasts_(boasts) {}

  std::string device_name() const override { return inner_->device_name(); }
  std::string device_id() const override { return inner_->device_id(); }
  std::unique_ptr<ScratchBounds> scratch_bounds(Numerics numerics) const override {
    return inner_->scratch_bounds(numerics);
  }
  int64_t workspace_bytes(int64_t counted) const override {
    return inner_->workspace_bytes(counted);
  }
  Result<int64_t> memory_bytes_per_rank(const RankGrid& grid, double fraction) override {
    FATHOM_ASSIGN(const int64_t bytes, inner_->memory_bytes_per_rank(grid, fraction));
    return boasts_ ? 2 * bytes : bytes;
  }
  Result<std::unique_ptr<Ops>> make_ops(const OpsSetup& setup) override {
    FATHOM_ASSIGN(std::unique_ptr<Ops> ops, inner_->make_ops(setup));
    stream_ = static_cast<CudaOps&>(*ops).stream();
    return ops;
  }
  Result<std::vector<Groups>> make_groups(const RankGrid& grid) override {
    return inner_->make_groups(grid);
  }
  cudaStream_t stream() const { return stream_; }

 private:
  const std::unique_ptr<CudaBackend> inner_;
  const bool boasts_;
  cudaStream_t stream_ = nullptr;
};

std::optional<Fault> fault_of(uint64_t seed) {
  switch (seed) {
    case kIllegalReadSeed: return Fault::kIllegalRead;
    case kTrapSeed: return Fault::kTrap;
    case kEndlessSeed: return Fault::kEndless;
    default: return std::nullopt;
  }
}

// Passes plans on, and puts a fault in front of one that goes on with a request that asks for it.
class FaultExecutor final : public Executor {
 public:
  FaultExecutor(std::unique_ptr<Executor> inner, cudaStream_t stream)
      : inner_(std::move(inner)), stream_(stream) {}

  int32_t depth() const override { return inner_->depth(); }
  void submit(StepPlan plan) override {
    for (const OpenSlot& open : plan.open) {
      if (const auto fault = fault_of(open.sampling->seed)) asked_[open.slot] = {*fault, 0};
    }
    for (const PlanRow& row : plan.rows) {
      const auto asked = asked_.find(row.slot);
      if (asked == asked_.end() || ++asked->second.steps != kCleanSteps) continue;
      launch_fault(stream_, asked->second.fault);
    }
    inner_->submit(std::move(plan));
  }
  std::optional<StepResult> poll() override { return inner_->poll(); }
  int event_fd() const override { return inner_->event_fd(); }
  Status health() const override { return inner_->health(); }

 private:
  struct Asked {
    Fault fault = Fault::kTrap;
    int32_t steps = 0;
  };

  const std::unique_ptr<Executor> inner_;
  const cudaStream_t stream_;
  std::map<SlotId, Asked> asked_;
};

Result<LoadedEngine> load_with_faults(const EngineOptions& options, ProgressCallback on_progress) {
  FATHOM_ASSIGN(std::unique_ptr<CudaBackend> cuda, CudaBackend::open(options.seed == kNeutralSeed));
  auto backend = std::make_unique<FaultBackend>(std::move(cuda), options.seed == kBoastfulSeed);
  const FaultBackend& hand = *backend;  // the executor owns it
  FATHOM_ASSIGN(const auto weights, open_weights(options, false));
  FATHOM_ASSIGN(LoadedEngine loaded, load_engine_on(std::move(backend), options, weights, *weights,
                                                    std::move(on_progress)));
  loaded.executor = std::make_unique<FaultExecutor>(std::move(loaded.executor), hand.stream());
  return loaded;
}

}  // namespace
}  // namespace fathom::testing

int main(int argc, char** argv) {
  constexpr int kEngineSocket = 3;
  if (argc > 1 && std::string_view(argv[1]) == "--engine")
    return fathom::serve_engine(kEngineSocket, fathom::testing::load_with_faults);
  auto launch = fathom::load_config(argc, argv, environ);
  if (!launch.is_ok()) {
    std::fprintf(stderr, "%s\n", launch.status().message().c_str());
    return fathom::kExitConfig;
  }
  auto daemon = fathom::Daemon::start(launch->config);
  if (!daemon.is_ok()) {
    std::fprintf(stderr, "%s\n", daemon.status().message().c_str());
    return 1;
  }
  return (*daemon)->run();
}
