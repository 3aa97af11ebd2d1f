// y = x Wt for 1 to 128 rows of x and packed bf16 weights, which stream from device memory once
// (docs/kernels/packed_gemm.md).
#pragma once

#include "format.h"
#include "packed_weights.h"

namespace fathom::kernels {

// Once, before any stream capture: loads the kernels and raises their shared-memory limit.
cudaError_t load_packed_gemm();

// out[i, o] = x[i, :] . w[o, :], rounded through `round` and to out.format (f32 or bf16). x is
// bf16; data and strides are multiples of 16 bytes. w.gated: w.out is twice the width, and
// out[i, o] = silu(y[i, o]) y[i, width + o] of y rounded through `round`.
cudaError_t packed_gemm(cudaStream_t stream, Rows x, int64_t rows, const PackedMatrix& w, Rows out,
                        Format round, const PackedPlan& plan);

}  // namespace fathom::kernels
