// Scales of activations in the order that cuBLASLt reads them.
#pragma once

#include "format.h"

namespace fathom::kernels {

// out[g, i] = scales[i, g]; rows of `scales` lie `stride` apart, out is [groups, rows].
cudaError_t transpose_scales(cudaStream_t stream, const float* scales, int64_t stride, int64_t rows,
                             int64_t groups, float* out);

}  // namespace fathom::kernels
