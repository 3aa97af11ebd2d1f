// silu(gate) * up of a joined product, stored as the next product wants it, in one pass.
#pragma once

#include "format.h"

namespace fathom::kernels {

// out[i, k] = silu(both[i, k]) * both[i, width + k]: float32 inside, rounded and quantized at the
// end. `both` is float32 or bf16.
cudaError_t gate_rows(cudaStream_t stream, Rows both, int64_t rows, int64_t width, Epilogue out);

}  // namespace fathom::kernels
