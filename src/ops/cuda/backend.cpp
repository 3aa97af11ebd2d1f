// The plugin's one export: the CUDA backend of an engine process.
#include "ops/cuda/backend.h"

#include <algorithm>
#include <utility>

#include "ops/cuda/choose_round.h"
#include "ops/cuda/cuda_ops.h"
#include "ops/cuda/cuda_scratch.h"

namespace fathom {

Result<std::unique_ptr<CudaBackend>> CudaBackend::open(bool neutral_kernels) {
  FATHOM_ASSIGN(std::string name, open_device());
  FATHOM_ASSIGN(std::string id, device_pci_id());
  FATHOM_ASSIGN(const int32_t sms, device_multiprocessors());
  FATHOM_ASSIGN(DeviceTraits traits, device_traits());
  if (neutral_kernels) traits.hopper = false;
  return std::unique_ptr<CudaBackend>(
      new CudaBackend(std::move(name), std::move(id), sms, traits));
}

Result<int64_t> CudaBackend::memory_bytes_per_rank(const RankGrid&, double fraction) {
  FATHOM_ASSIGN(const DeviceMemory memory, device_memory());
  const auto wanted = static_cast<int64_t>(fraction * static_cast<double>(memory.total_bytes));
  const int64_t in_use = memory.total_bytes - memory.free_bytes;
  return std::max<int64_t>(0, wanted - in_use - kCudaBesidePlanBytes);
}

std::unique_ptr<ScratchBounds> CudaBackend::scratch_bounds(Numerics numerics) const {
  return std::make_unique<CudaScratch>(numerics, sms_, traits_);
}

int64_t CudaBackend::workspace_bytes(int64_t counted_bytes) const {
  return counted_bytes + kCudaSpareBytes;
}

// The attention's and the MLP's last products have as many columns as the model is wide, and the
// fewest items of all: where they end in a whole round, those with more columns nearly do.
int32_t CudaBackend::round_tokens(int32_t hidden) const {
  return traits_.hopper ? static_cast<int32_t>(rows_of_round(hidden, sms_)) : 0;
}

Result<std::unique_ptr<Ops>> CudaBackend::make_ops(const OpsSetup& setup) {
  FATHOM_ASSIGN(std::unique_ptr<CudaOps> ops,
                CudaOps::make({.numerics = setup.numerics,
                               .arena_bytes = setup.arena_bytes,
                               .weight_bytes = setup.weight_bytes,
                               .deterministic = setup.deterministic,
                               .neutral_kernels = !traits_.hopper}));
  return std::unique_ptr<Ops>(std::move(ops));
}

Result<std::vector<Groups>> CudaBackend::make_groups(const RankGrid& grid) {
  if (grid.ranks() == 1) return std::vector<Groups>(1);
  return unimplemented(
             "device cuda runs one rank in this build; set tensor_parallel_size and "
             "pipeline_parallel_size to 1")
      .about("tensor_parallel_size");
}

}  // namespace fathom
