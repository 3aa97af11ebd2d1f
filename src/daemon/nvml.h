// NVML, the driver's library of device facts, opened at run time: hosts without a GPU have none.
// Called by the thread that watches the GPU. It initialises no CUDA context.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "fathom/status.h"

namespace fathom {

// What a GPU reports; what it does not is absent.
struct GpuReading {
  std::string uuid;
  std::optional<double> utilization_ratio;
  std::optional<int64_t> memory_used_bytes;
  std::optional<int64_t> memory_total_bytes;
  std::optional<double> temperature_celsius;
  std::optional<double> power_watts;
  std::optional<double> sm_clock_hertz;
  std::optional<uint64_t> ecc_corrected;  // since the driver was loaded
  std::optional<uint64_t> ecc_uncorrected;
  std::vector<uint64_t> xids;  // critical ones since the last reading
};

inline constexpr const char* kNvmlLibrary = "libnvidia-ml.so.1";

// One device of the library. One thread.
class NvmlDevice {
 public:
  // `pci_id` as CUDA writes it. kUnavailable without the library, kNotFound without the device.
  static Result<std::unique_ptr<NvmlDevice>> open(const std::string& library,
                                                  const std::string& pci_id);
  ~NvmlDevice();

  GpuReading read();

 private:
  struct Calls;
  NvmlDevice();

  std::unique_ptr<Calls> calls_;
  std::string uuid_;
};

}  // namespace fathom
