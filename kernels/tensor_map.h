// The driver's function that describes a tensor to the copy engine. Host only; any thread.
#pragma once

#include <cudaTypedefs.h>
#include <cuda_runtime.h>

namespace fathom::kernels {

// Found through the runtime, so that nothing links to the driver's library; null where it is not
// there.
inline PFN_cuTensorMapEncodeTiled_v12000 tensor_map_encoder() {
  static const PFN_cuTensorMapEncodeTiled_v12000 found = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult result{};
    const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function,
                                                               12000, cudaEnableDefault, &result);
    const bool ok = error == cudaSuccess && result == cudaDriverEntryPointSuccess;
    return ok ? reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(function) : nullptr;
  }();
  return found;
}

}  // namespace fathom::kernels
