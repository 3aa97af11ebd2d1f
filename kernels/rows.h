// What stands between the products of a step, in one kernel each: residual addition with norm and
// quantization, embedding, copies of rows. Rows are read and written in vectors of eight
// columns; the sums of a row depend on that row alone. docs/kernels/rows.md.
#pragma once

#include "format.h"

namespace fathom::kernels {

inline constexpr int32_t kRowVector = 8;          // columns of a vector
inline constexpr int32_t kNormColumnsMax = 8192;  // of rows that `add_norm_rows` takes
// Rows from which `add_norm_rows` has blocks that stay, where columns come in twos of vectors for
// whole warps; the results have the same bits.
inline constexpr int64_t kNormRowsMany = 400;
constexpr bool norms_many_rows(int64_t rows, int64_t columns) {
  return rows >= kNormRowsMany && columns % (64 * kRowVector) == 0;
}

// Below, `columns` and strides are multiples of kRowVector, data lies at multiples of 16 bytes,
// formats are f32 and bf16 (fp8 too as an epilogue's, with groups that start at column 0).

// x += part, rounded to x's format (part.data null: x stays), then
// out = norm(x) * weight with mean and root in float32.
cudaError_t add_norm_rows(cudaStream_t stream, Rows part, Rows x, int64_t rows, int64_t columns,
                          const float* weight, float epsilon, const Epilogue& out);

// out[i, :] = [left[i, :] | right[i, :]]; right_columns may be 0.
cudaError_t join_rows(cudaStream_t stream, Rows left, int64_t left_columns, Rows right,
                      int64_t right_columns, int64_t rows, const Epilogue& out);

// x += part, rounded to x's format.
cudaError_t add_to_rows(cudaStream_t stream, Rows part, Rows x, int64_t rows, int64_t columns);

// out[i, :] = table[index[i] - first_row, :], zeros outside the table's rows.
cudaError_t pick_rows(cudaStream_t stream, const int32_t* index, int64_t count, Rows table,
                      int64_t table_rows, int32_t first_row, int64_t columns, const Epilogue& out);

}  // namespace fathom::kernels
