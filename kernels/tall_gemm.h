// y = x Wt in e4m3 for 65 to some hundred rows of x: tiles of 128 rows of x by 128 or 256 of W
// (docs/kernels/tall_gemm.md).
#pragma once

#include "format.h"
#include "gqa_decode.h"
#include "tall_plan.h"

namespace fathom::kernels {

// Once, before any stream capture: raises the kernels' shared-memory limit.
cudaError_t load_tall_gemm();

// out[i, o] = x[i, :] . w[o, :] in bf16. x and w are e4m3; data and strides, the output's too, are
// multiples of 16 bytes, w.out is one of 8, w.in one of 16; w.first_column_in_block is 0, and rows
// [128 i, 128 i + 128) of w are under one row of scales.
cudaError_t tall_gemm(cudaStream_t stream, Rows x, int64_t rows, Matrix w, Rows out,
                      const TallPlan& plan, int32_t sms);

// out[i, o] = silu(y[i, o]) y[i, width + o] of rounded y, rounded to bf16 and quantized. w.out is
// twice the width, a multiple of 256; K is not split, and tiles of one box come in pairs
// (kColumns).
cudaError_t tall_gated_gemm(cudaStream_t stream, Rows x, int64_t rows, Matrix w, Epilogue out,
                            const TallPlan& plan, int32_t sms);

// The product that makes qkv, and what gqa_prepare_heads makes of it, bit for bit; heads.qkv is not
// read. Heads of 128 dimensions without bias and norms, up to kTallHeadTokens rows; plan.heads, K
// is not split, tiles of 128 or 256.
cudaError_t tall_heads_gemm(cudaStream_t stream, Rows x, int64_t rows, Matrix w,
                            const GqaPrepareCall& heads, const TallPlan& plan, int32_t sms);

}  // namespace fathom::kernels
