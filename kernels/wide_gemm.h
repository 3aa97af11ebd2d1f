// y = x Wt for 65 to 128 rows of x, more in blocks of 128: weights stream from device memory once
// (docs/kernels/wide_gemm.md). Rows of x and W are bf16, or e4m3 with scales per 128 columns.
#pragma once

#include "format.h"
#include "wide_plan.h"

namespace fathom::kernels {

// Once, before any stream capture: loads the kernels and raises their shared-memory limit.
cudaError_t load_wide_gemm();

// out[i, o] = x[i, :] . w[o, :], rounded through `round` and to out.format (f32 or bf16). x and w
// are both bf16 or both e4m3; data and strides, the output's too, are multiples of 16 bytes, w.out
// is one of 8; w.first_column_in_block is 0. gated: w.out is twice the width, a multiple of 16, and
// out[i, o] = silu(y[i, o]) y[i, width + o] of rounded y, in a plan of two parts.
cudaError_t wide_gemm(cudaStream_t stream, Rows x, int64_t rows, Matrix w, Rows out, Format round,
                      bool gated, const WidePlan& plan);

}  // namespace fathom::kernels
