// Dense kernels: embedding, norms, linear layers and their epilogues. Plain: one warp an output,
// float32 accumulation; the sums of one row depend on that row alone.
#pragma once

#include "format.h"

namespace fathom::kernels {

// out[t, :] = table[ids[t] - first_row, :], zeros outside the table's rows.
void embed(cudaStream_t stream, const int32_t* ids, int64_t tokens, Rows table, int64_t table_rows,
           int32_t first_row, int64_t columns, Rows out);

// out[i, :] = x[i, :] * rsqrt(mean(x^2) + epsilon) * weight, float32.
void rms_norm(cudaStream_t stream, Rows x, int64_t rows, int64_t columns, const float* weight,
              float epsilon, float* out);

// sum[i, :] += part[i, :], rounded to sum's format.
void add_rows(cudaStream_t stream, Rows part, Rows sum, int64_t rows, int64_t columns);

// Float32 rows to an activation. `stride` is the distance of input rows.
void finish_rows(cudaStream_t stream, const float* x, int64_t rows, int64_t columns, int64_t stride,
                 Epilogue out);

// out[i, o] = x[i, :] . w[o, :], rounded to `out.format` (or through `round` first).
void linear(cudaStream_t stream, Rows x, int64_t rows, Matrix w, Rows out, Format round);

// out[i, k] = silu(x[i, k]) * x[i, width + k]; x is [rows, 2 * width].
void gate(cudaStream_t stream, const float* x, int64_t rows, int64_t width, float* out);

// out[i, :] = x[index[i], :], bytes per row `bytes`, strides in bytes.
void gather(cudaStream_t stream, const void* x, int64_t stride_bytes, const int32_t* index,
            int64_t count, int64_t bytes, void* out);

// out[i, :] = [left[i, :] | right[i, :]] as float32.
void concat(cudaStream_t stream, Rows left, int64_t left_columns, Rows right, int64_t right_columns,
            int64_t rows, float* out);

}  // namespace fathom::kernels
