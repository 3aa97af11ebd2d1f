// Products as sums of scaled rows: the other operand lies with its columns together.
#include <algorithm>

#include "ops/cpu/matmul.h"
#include "ops/cpu/products_avx512.h"
#include "ops/cpu/simd.h"

namespace fathom {
namespace {

// R rows by C vectors of columns of out, over all of k. Every element has one accumulator, so that
// the shape of the tile changes no bit.
template <int R, int C, typename T>
void add_tile(const Rows& x, int64_t first, const Matrix& b, int64_t column, float* out,
              int64_t out_stride) {
  const float* rows[R];
  __m256 acc[R][C];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    rows[r] = x.row(first + r);
    const float* from = out + (first + r) * out_stride + column;
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) acc[r][c] = _mm256_loadu_ps(from + c * simd::kLanes);
  }
  const T* from = static_cast<const T*>(b.data) + column;
  for (int64_t k = 0; k < b.rows; ++k, from += b.stride) {
    __m256 v[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) v[r] = _mm256_broadcast_ss(rows[r] + k);
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) {
      const __m256 w = simd::load(from + c * simd::kLanes);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) acc[r][c] = _mm256_fmadd_ps(v[r], w, acc[r][c]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    float* to = out + (first + r) * out_stride + column;
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) _mm256_storeu_ps(to + c * simd::kLanes, acc[r][c]);
  }
}

// One row by fewer than eight columns.
template <typename T>
void add_part(const Rows& x, int64_t row, const Matrix& b, int64_t column, float* out,
              int64_t out_stride) {
  const int64_t columns = b.columns - column;
  float* to = out + row * out_stride + column;
  __m256 acc = simd::load_part(to, columns);
  const T* from = static_cast<const T*>(b.data) + column;
  for (int64_t k = 0; k < b.rows; ++k, from += b.stride) {
    acc = _mm256_fmadd_ps(_mm256_broadcast_ss(x.row(row) + k), simd::load_part(from, columns), acc);
  }
  _mm256_maskstore_ps(to, simd::lane_mask(columns), acc);
}

// Rows [first, first + R): eight accumulators, then what is left of the columns.
template <int R, typename T>
void add_rows(const Rows& x, int64_t first, const Matrix& b, float* out, int64_t out_stride) {
  constexpr int kVectors = 8 / R;
  int64_t column = 0;
  for (; column + kVectors * simd::kLanes <= b.columns; column += kVectors * simd::kLanes) {
    add_tile<R, kVectors, T>(x, first, b, column, out, out_stride);
  }
  for (; column + simd::kLanes <= b.columns; column += simd::kLanes) {
    add_tile<R, 1, T>(x, first, b, column, out, out_stride);
  }
  for (int r = 0; column < b.columns && r < R; ++r) {
    add_part<T>(x, first + r, b, column, out, out_stride);
  }
}

template <typename T>
void add_matrix(const Rows& x, const Matrix& b, float* out, int64_t out_stride) {
  int64_t i = 0;
  for (; i + 4 <= x.count; i += 4) add_rows<4, T>(x, i, b, out, out_stride);
  for (; i + 2 <= x.count; i += 2) add_rows<2, T>(x, i, b, out, out_stride);
  if (i < x.count) add_rows<1, T>(x, i, b, out, out_stride);
}

}  // namespace

void Products::add_product(const Rows& x, const Matrix& b, float* out, int64_t out_stride) const {
  if (wide())
    avx512::add_product(x, b, out, out_stride);
  else if (b.dtype == DType::kF32)
    add_matrix<float>(x, b, out, out_stride);
  else
    add_matrix<uint16_t>(x, b, out, out_stride);
}

}  // namespace fathom
