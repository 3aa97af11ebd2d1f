// Stands in for cuda_device.cpp in a build without CUDA.
#include "device.h"

namespace fathom::bench {

Result<std::unique_ptr<Device>> make_cuda_device() {
  return unavailable("this build has no CUDA (cmake --preset cuda)").about("device");
}

}  // namespace fathom::bench
