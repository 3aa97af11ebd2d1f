// y = x Wt for few rows of x: weights stream from device memory once, at its speed
// (docs/kernels/skinny_gemm.md). Rows of x and W are bf16, or e4m3 with scales per 128 columns.
#pragma once

#include "format.h"
#include "skinny_plan.h"
#include "turn.h"

namespace fathom::kernels {

// Once, before any stream capture: loads the kernels and raises their shared-memory limit.
cudaError_t load_skinny_gemm();

// out[i, o] = x[i, :] . w[o, :] for rows i < plan.token_tile * plan.token_blocks, rounded through
// `round` and to out.format. x and w are both bf16 or both e4m3; data and strides are multiples of
// 16 bytes; w.first_column_in_block is 0.
cudaError_t skinny_gemm(cudaStream_t stream, Rows x, int64_t rows, Matrix w, Rows out, Format round,
                        const SkinnyPlan& plan, const Turn& turn = {});

// Blocks of the launch.
constexpr int64_t skinny_blocks(int64_t out, const SkinnyPlan& plan) {
  return (out + plan.tile_rows - 1) / plan.tile_rows * plan.split;
}

}  // namespace fathom::kernels
