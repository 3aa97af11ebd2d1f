// Products as dots of rows: tiles of up to 3 rows by 4 outputs, so twelve vector accumulators,
// three operands and one spare register.
#include "ops/cpu/matmul.h"

#include <algorithm>
#include <cstring>

#include "base/float_formats.h"
#include "ops/cpu/products_avx512.h"
#include "ops/cpu/scale_blocks.h"
#include "ops/cpu/simd.h"

namespace fathom {
namespace {

constexpr int kTileOuts = 4;
constexpr float kOne = 1.0F;

// Four weight rows with a scale per block; outputs past the matrix repeat the last.
template <typename T>
struct Panel {
  const T* rows[kTileOuts];
  const float* scales[kTileOuts];
};

template <int R, typename T>
inline void dot_block(const float* const (&x)[R], const T* const (&w)[kTileOuts], int64_t begin,
                      int64_t end, __m256 (&acc)[R][kTileOuts]) {
  int64_t k = begin;
  for (; k + simd::kLanes <= end; k += simd::kLanes) {
    __m256 v[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) v[r] = _mm256_loadu_ps(x[r] + k);
#pragma GCC unroll 4
    for (int o = 0; o < kTileOuts; ++o) {
      const __m256 b = simd::load(w[o] + k);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) acc[r][o] = _mm256_fmadd_ps(v[r], b, acc[r][o]);
    }
  }
  if (k == end) return;
  __m256 v[R];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) v[r] = simd::load_part(x[r] + k, end - k);
#pragma GCC unroll 4
  for (int o = 0; o < kTileOuts; ++o) {
    const __m256 b = simd::load_part(w[o] + k, end - k);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) acc[r][o] = _mm256_fmadd_ps(v[r], b, acc[r][o]);
  }
}

// Rows [first, first + R) against one panel; writes the `outs` first outputs.
template <int R, typename T>
void dot_tile(const Rows& x, int64_t first, const Panel<T>& panel, const ScaleBlocks& blocks,
              int outs, float* out, int64_t out_stride) {
  const float* rows[R];
  __m256 total[R][kTileOuts];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
    rows[r] = x.row(first + r);
#pragma GCC unroll 4
    for (int o = 0; o < kTileOuts; ++o) total[r][o] = _mm256_setzero_ps();
  }
  const int64_t count = blocks.count();
  int64_t begin = 0;
  for (int64_t block = 0; block < count; ++block) {
    const int64_t end = blocks.end(block);
    __m256 part[R][kTileOuts];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int o = 0; o < kTileOuts; ++o) part[r][o] = _mm256_setzero_ps();
    }
    dot_block<R>(rows, panel.rows, begin, end, part);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const float row_scale = x.scales == nullptr ? 1.0F : x.row_scales(first + r)[block];
#pragma GCC unroll 4
      for (int o = 0; o < kTileOuts; ++o) {
        const __m256 scale = _mm256_set1_ps(row_scale * panel.scales[o][block]);
        total[r][o] = _mm256_fmadd_ps(part[r][o], scale, total[r][o]);
      }
    }
    begin = end;
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
    const __m128 sums = simd::sum4(total[r][0], total[r][1], total[r][2], total[r][3]);
    float* to = out + (first + r) * out_stride;
    if (outs == kTileOuts) {
      _mm_storeu_ps(to, sums);
    } else {
      alignas(16) float four[kTileOuts];
      _mm_store_ps(four, sums);
      std::copy_n(four, outs, to);
    }
  }
}

template <typename T>
void dot_panel(const Rows& x, const Panel<T>& panel, const ScaleBlocks& blocks, int outs,
               float* out, int64_t out_stride) {
  int64_t i = 0;
  for (; x.count - i == 3 || x.count - i > 4; i += 3) {
    dot_tile<3>(x, i, panel, blocks, outs, out, out_stride);
  }
  for (; x.count - i >= 2; i += 2) dot_tile<2>(x, i, panel, blocks, outs, out, out_stride);
  if (x.count - i == 1) dot_tile<1>(x, i, panel, blocks, outs, out, out_stride);
}

// The values of one weight row as float32, without its scales.
void decode_row(const Weight& weight, int64_t row, float* out) {
  const int64_t n = weight.in();
  const int64_t at = row * weight.values.stride[0];
  int64_t i = 0;
  if (weight.format == WeightFormat::kFp8Block) {
    const uint8_t* p = weight.values.as<uint8_t>() + at;
    for (; i + 16 <= n; i += 16) simd::decode_e4m3(p + i, out + i);
    for (; i < n; ++i) out[i] = e4m3_to_float(p[i]);
  } else if (weight.format == WeightFormat::kBF16) {
    const uint16_t* p = weight.values.as<uint16_t>() + at;
    for (; i + simd::kLanes <= n; i += simd::kLanes) _mm256_storeu_ps(out + i, simd::load(p + i));
    for (; i < n; ++i) out[i] = bf16_to_float(p[i]);
  } else {
    std::memcpy(out, weight.values.as<float>() + at, static_cast<size_t>(n) * sizeof(float));
  }
}

int64_t padded(int64_t n) { return (n + 15) / 16 * 16; }

template <typename T>
void dot_matrix(const Rows& x, const Matrix& b, float scale, float* out, int64_t out_stride) {
  const ScaleBlocks blocks{x.columns, x.columns, 0};
  for (int64_t o = 0; o < b.rows; o += kTileOuts) {
    const int outs = static_cast<int>(std::min<int64_t>(kTileOuts, b.rows - o));
    Panel<T> panel;
    for (int i = 0; i < kTileOuts; ++i) {
      panel.rows[i] = static_cast<const T*>(b.data) + (o + std::min(i, outs - 1)) * b.stride;
      panel.scales[i] = &scale;
    }
    dot_panel(x, panel, blocks, outs, out + o, out_stride);
  }
}

// Outputs [begin, end); `decoded` holds kTileOuts rows.
void avx2_matmul_part(const Rows& x, const Weight& weight, int64_t begin, int64_t end, float* out,
                      int64_t out_stride, float* decoded) {
  const ScaleBlocks blocks = scale_blocks(weight);
  const int64_t row_floats = padded(weight.in());
  for (int64_t o = begin; o < end; o += kTileOuts) {
    const int outs = static_cast<int>(std::min<int64_t>(kTileOuts, end - o));
    Panel<float> panel;
    for (int i = 0; i < kTileOuts; ++i) {
      const int from = std::min(i, outs - 1);
      panel.rows[i] = decoded + from * row_floats;
      if (i < outs) decode_row(weight, o + i, decoded + i * row_floats);
      panel.scales[i] = scales_of(weight, o + from, &kOne);
    }
    dot_panel(x, panel, blocks, outs, out + o, out_stride);
  }
}

}  // namespace

int64_t Products::scratch_floats(const Weight& weight, int32_t threads) const {
  return threads * (wide() ? avx512::panel_floats(weight) : kTileOuts * padded(weight.in()));
}

int64_t Products::cost(int64_t rows, const Weight& weight) {
  // Decoding a weight costs about as much as three products with it.
  return (rows + 3) * weight.out() * weight.in();
}

void Products::matmul_part(const Rows& x, const Weight& weight, int64_t begin, int64_t end,
                           float* out, int64_t out_stride, float* scratch) const {
  if (wide())
    avx512::matmul_part(x, weight, begin, end, out, out_stride, scratch);
  else
    avx2_matmul_part(x, weight, begin, end, out, out_stride, scratch);
}

void Products::matmul(const Rows& x, const Weight& weight, float* out, int64_t out_stride,
                      ThreadPool& pool, float* scratch) const {
  const int64_t each = scratch_floats(weight, 1);
  const int64_t unit = wide() ? avx512::kPanelOuts : kTileOuts;
  pool.split(weight.out(), unit, cost(x.count, weight),
             [&](int64_t begin, int64_t end, int32_t worker) {
               matmul_part(x, weight, begin, end, out, out_stride, scratch + worker * each);
             });
}

void Products::dot_rows(const Rows& x, const Matrix& b, float scale, float* out,
                        int64_t out_stride) const {
  if (wide())
    avx512::dot_rows(x, b, scale, out, out_stride);
  else if (b.dtype == DType::kF32)
    dot_matrix<float>(x, b, scale, out, out_stride);
  else
    dot_matrix<uint16_t>(x, b, scale, out, out_stride);
}

}  // namespace fathom
