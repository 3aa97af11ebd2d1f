// The plugin's one export: the CUDA backend of an engine process.
#include "fathom/backend.h"

#include "ops/cuda/cuda_ops.h"

namespace fathom {
namespace {

// Owned by the engine process; its loading thread calls it.
class CudaBackend final : public Backend {
 public:
  explicit CudaBackend(std::string name) : name_(std::move(name)) {}

  std::string device_name() const override { return name_; }

  Result<int64_t> memory_bytes_per_rank(const RankGrid&) override { return device_free_bytes(); }

  Result<std::unique_ptr<Ops>> make_ops(const OpsSetup& setup) override {
    // The memory plan counts the CPU's workspace; float32 rows between plain kernels take more.
    constexpr int64_t kMoreBytes = int64_t{256} << 20;
    FATHOM_ASSIGN(std::unique_ptr<CudaOps> ops,
                  CudaOps::make({setup.numerics, 3 * setup.arena_bytes + kMoreBytes}));
    return std::unique_ptr<Ops>(std::move(ops));
  }

  Result<std::vector<Groups>> make_groups(const RankGrid& grid) override {
    if (grid.ranks() == 1) return std::vector<Groups>(1);
    return unimplemented(
               "device cuda runs one rank in this build; set tensor_parallel_size and "
               "pipeline_parallel_size to 1")
        .about("tensor_parallel_size");
  }

 private:
  std::string name_;
};

}  // namespace
}  // namespace fathom

extern "C" __attribute__((visibility("default"))) fathom::Backend* fathom_make_backend(
    int32_t abi) {
  if (abi != fathom::kBackendAbi) return nullptr;
  fathom::Result<std::string> name = fathom::open_device();
  return name.is_ok() ? new fathom::CudaBackend(*name) : nullptr;
}
