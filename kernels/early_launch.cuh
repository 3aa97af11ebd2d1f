// Launches a kernel that may start before the stream's last one has ended: it calls
// wait_for_earlier_kernels() (async_copy.cuh) before its first read of what others wrote, and
// before its first write.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <utility>

namespace fathom::kernels {

// Whether the device has such launches, and the kernels were compiled to wait in them.
bool launches_early();

template <typename... Parameters, typename... Arguments>
cudaError_t launch_early_with_shared(cudaStream_t stream, void (*kernel)(Parameters...), dim3 grid,
                                     dim3 block, size_t shared_bytes, Arguments&&... arguments) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = launches_early() ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...);
}

template <typename... Parameters, typename... Arguments>
cudaError_t launch_early(cudaStream_t stream, void (*kernel)(Parameters...), dim3 grid, dim3 block,
                         Arguments&&... arguments) {
  return launch_early_with_shared(stream, kernel, grid, block, 0,
                                  std::forward<Arguments>(arguments)...);
}

}  // namespace fathom::kernels
