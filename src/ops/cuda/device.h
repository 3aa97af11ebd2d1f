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

namespace fathom {

// kInternal with CUDA's own words; kUnavailable when the error is sticky (the context is lost).
Status cuda_status(cudaError_t error, const char* what);

// Chooses device 0 of those that the process sees; refuses one that the kernels were not built for.
Result<std::string> open_device();

// Free bytes of the device now.
Result<int64_t> device_free_bytes();

kernels::Format format_of(DType dtype);
kernels::Rows rows_of(const Tensor& tensor);
kernels::Rows rows_of(const Act& act);
kernels::Matrix matrix_of(const Weight& weight);
// Where a kernel stores rows as `act` wants them.
kernels::Epilogue epilogue_of(const Act& act);

}  // namespace fathom
