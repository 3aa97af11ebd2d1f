// Random numbers in device memory, for weights and caches that are made where they are used. Also
// a kernel that holds the stream for a while.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "fathom/tensor.h"

namespace fathom::bench {

// `to` (f32, bf16 or e4m3, contiguous) with numbers uniform in [center - spread, center + spread).
void fill_uniform(cudaStream_t stream, const Tensor& to, float center, float spread, uint32_t seed);

// Keeps one thread of the stream busy for `us` microseconds: what is launched meanwhile then runs
// without waiting for the host.
void hold(cudaStream_t stream, int64_t us);

}  // namespace fathom::bench
