// Kernels that break a device's context, for tests.
#pragma once

#include <cuda_runtime_api.h>

namespace fathom::testing {

enum class Fault { kIllegalRead, kTrap, kEndless };

// Puts the fault behind what `stream` holds.
void launch_fault(cudaStream_t stream, Fault fault);

}  // namespace fathom::testing
