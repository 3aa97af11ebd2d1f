// The GPU that a process uses: found, checked and named once. cudaMalloc and its kin are called in
// this folder alone, before the engine is ready.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <string>

#include "fathom/status.h"
#include "fathom/tensor.h"
#include "fathom/weight.h"
#include "kernels/format.h"
#include "ops/cuda/device_traits.h"

namespace fathom {

// Why an engine ends whose context is lost: the reason of its Status.
inline constexpr const char* kCudaErrorReason = "cuda_error";

// Whether every later call of this process on the device will fail, too.
bool is_sticky(cudaError_t error);

// kInternal with CUDA's own words; kResourceExhausted for memory; kUnavailable, reason
// kCudaErrorReason, when the error is sticky (the context is lost).
Status cuda_status(cudaError_t error, const char* what);
bool is_lost(const Status& status);

// FATHOM_CUDA_ARCHITECTURES of this build, as device_traits.h writes lists.
const char* built_architectures();

// What open_device() looks at before it takes a device.
struct DeviceFacts {
  int driver_cuda = 0;  // the newest CUDA that the driver knows, 13000 for 13.0; 0: no driver
  int devices = 0;
  std::string name;
  Capability capability;
  std::string architectures = built_architectures();  // that this build's kernels are for
};

// kUnavailable with a sentence that says what is there and what is needed. Pure.
Status check_device(const DeviceFacts& facts);

// Chooses device 0 of those that the process sees; refuses one that the kernels were not built for,
// or a driver that is too old. Its name.
Result<std::string> open_device();

// Of device 0, as NVML finds it: "00000000:3B:00.0".
Result<std::string> device_pci_id();
Result<int32_t> device_multiprocessors();
Result<DeviceTraits> device_traits();

// Of device 0, now.
struct DeviceMemory {
  int64_t total_bytes = 0;
  int64_t free_bytes = 0;
};
Result<DeviceMemory> device_memory();

kernels::Format format_of(DType dtype);
kernels::Rows rows_of(const Tensor& tensor);
kernels::Rows rows_of(const Act& act);
kernels::Matrix matrix_of(const Weight& weight);
// Where a kernel stores rows as `act` wants them.
kernels::Epilogue epilogue_of(const Act& act);

}  // namespace fathom
