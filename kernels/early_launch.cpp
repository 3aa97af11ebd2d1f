// One answer for all kernels of a build.
#include <cuda_runtime_api.h>

#include "early_launch.cuh"

namespace fathom::kernels {

bool launches_early() {
  static const bool found = [] {
    int major = 0;
    return FATHOM_EARLY_LAUNCH != 0 &&
           cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0) == cudaSuccess &&
           major >= 9;
  }();
  return found;
}

}  // namespace fathom::kernels
