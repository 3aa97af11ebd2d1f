// Products as sums of scaled rows on 512-bit registers: sixteen columns each.
#include "ops/cpu/avx512.h"

#include <algorithm>

#include "ops/cpu/products_avx512.h"

namespace fathom::avx512 {
namespace {

constexpr int64_t kLanes = 16;

FATHOM_AVX512 inline __m512 load(const float* p) { return _mm512_loadu_ps(p); }
FATHOM_AVX512 inline __m512 load(const uint16_t* p) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

FATHOM_AVX512 inline __m512 load_part(const float* p, __mmask16 mask) {
  return _mm512_maskz_loadu_ps(mask, p);
}
FATHOM_AVX512 inline __m512 load_part(const uint16_t* p, __mmask16 mask) {
  const __m256i bits = _mm256_maskz_loadu_epi16(mask, p);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

// R rows by C vectors of columns of out, over all of k. Every element has one accumulator, so that
// the shape of the tile changes no bit.
template <int R, int C, typename T>
FATHOM_AVX512 void add_tile(const Rows& x, int64_t first, const Matrix& b, int64_t column,
                            float* out, int64_t out_stride) {
  const float* rows[R];
  __m512 acc[R][C];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    rows[r] = x.row(first + r);
    const float* from = out + (first + r) * out_stride + column;
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) acc[r][c] = _mm512_loadu_ps(from + c * kLanes);
  }
  const T* from = static_cast<const T*>(b.data) + column;
  for (int64_t k = 0; k < b.rows; ++k, from += b.stride) {
    __m512 w[C];
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) w[c] = load(from + c * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const __m512 v = _mm512_set1_ps(rows[r][k]);
#pragma GCC unroll 8
      for (int c = 0; c < C; ++c) acc[r][c] = _mm512_fmadd_ps(v, w[c], acc[r][c]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    float* to = out + (first + r) * out_stride + column;
#pragma GCC unroll 8
    for (int c = 0; c < C; ++c) _mm512_storeu_ps(to + c * kLanes, acc[r][c]);
  }
}

// R rows by fewer than sixteen columns.
template <int R, typename T>
FATHOM_AVX512 void add_part(const Rows& x, int64_t first, const Matrix& b, int64_t column,
                            float* out, int64_t out_stride) {
  const auto mask = static_cast<__mmask16>((1U << (b.columns - column)) - 1);
  for (int r = 0; r < R; ++r) {
    float* to = out + (first + r) * out_stride + column;
    const float* row = x.row(first + r);
    __m512 acc = _mm512_maskz_loadu_ps(mask, to);
    const T* from = static_cast<const T*>(b.data) + column;
    for (int64_t k = 0; k < b.rows; ++k, from += b.stride) {
      acc = _mm512_fmadd_ps(_mm512_set1_ps(row[k]), load_part(from, mask), acc);
    }
    _mm512_mask_storeu_ps(to, mask, acc);
  }
}

// Rows [first, first + R): at most 24 accumulators, then what is left of the columns.
template <int R, typename T>
void add_rows(const Rows& x, int64_t first, const Matrix& b, float* out, int64_t out_stride) {
  constexpr int kVectors = R <= 3 ? 8 : 4;
  int64_t column = 0;
  for (; column + kVectors * kLanes <= b.columns; column += kVectors * kLanes) {
    add_tile<R, kVectors, T>(x, first, b, column, out, out_stride);
  }
  for (; column + kLanes <= b.columns; column += kLanes) {
    add_tile<R, 1, T>(x, first, b, column, out, out_stride);
  }
  if (column < b.columns) add_part<R, T>(x, first, b, column, out, out_stride);
}

template <typename T>
void add_matrix(const Rows& x, const Matrix& b, float* out, int64_t out_stride) {
  constexpr int64_t kRowsMax = 6;
  const int64_t tiles = (x.count + kRowsMax - 1) / kRowsMax;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const int64_t i = x.count * tile / tiles;
    switch (x.count * (tile + 1) / tiles - i) {
      case 1: add_rows<1, T>(x, i, b, out, out_stride); break;
      case 2: add_rows<2, T>(x, i, b, out, out_stride); break;
      case 3: add_rows<3, T>(x, i, b, out, out_stride); break;
      case 4: add_rows<4, T>(x, i, b, out, out_stride); break;
      case 5: add_rows<5, T>(x, i, b, out, out_stride); break;
      default: add_rows<6, T>(x, i, b, out, out_stride); break;
    }
  }
}

}  // namespace

void add_product(const Rows& x, const Matrix& b, float* out, int64_t out_stride) {
  if (b.dtype == DType::kF32)
    add_matrix<float>(x, b, out, out_stride);
  else
    add_matrix<uint16_t>(x, b, out, out_stride);
}

}  // namespace fathom::avx512
