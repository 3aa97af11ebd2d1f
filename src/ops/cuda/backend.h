// The CUDA backend of an engine process. Its loading thread calls it; make_ops() is called on the
// rank's thread.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "fathom/backend.h"
#include "ops/cuda/device_traits.h"

namespace fathom {

class CudaBackend final : public Backend {
 public:
  // kUnavailable with a sentence when there is no GPU that the kernels were built for.
  // neutral_kernels: those of every architecture alone, for tests.
  static Result<std::unique_ptr<CudaBackend>> open(bool neutral_kernels = false);

  std::string device_name() const override { return name_; }
  std::string device_id() const override { return pci_id_; }
  Result<int64_t> memory_bytes_per_rank(const RankGrid& grid, double fraction) override;
  std::unique_ptr<ScratchBounds> scratch_bounds(Numerics numerics) const override;
  int64_t workspace_bytes(int64_t counted_bytes) const override;
  int32_t round_tokens(int32_t hidden) const override;
  bool deterministic() const override { return true; }
  Result<std::unique_ptr<Ops>> make_ops(const OpsSetup& setup) override;
  Result<std::vector<Groups>> make_groups(const RankGrid& grid) override;

 private:
  CudaBackend(std::string name, std::string pci_id, int32_t sms, const DeviceTraits& traits)
      : name_(std::move(name)), pci_id_(std::move(pci_id)), sms_(sms), traits_(traits) {}

  std::string name_;
  std::string pci_id_;
  int32_t sms_;
  DeviceTraits traits_;
};

}  // namespace fathom
