// Tiles of 3 rows by 4 outputs: twelve vector accumulators, three operands, one spare register.
#include "ops/cpu/matmul.h"

#include <algorithm>
#include <cstring>

#include "base/float_formats.h"
#include "ops/cpu/simd.h"

namespace fathom {
namespace {

constexpr int kTileRows = 3;
constexpr int kTileOuts = 4;

// The columns of a product, cut where its scales change.
struct Blocks {
  int64_t columns = 0;
  int64_t width = 0;   // of a whole block
  int64_t offset = 0;  // columns of the first block that lie before column 0

  int64_t end(int64_t block) const { return std::min(columns, (block + 1) * width - offset); }
  int64_t count() const { return (columns + offset + width - 1) / width; }
};

// Four weight rows, decoded, with a scale per block; outputs past the matrix repeat the last.
struct Panel {
  const float* rows[kTileOuts];
  const float* scales[kTileOuts];
};

template <int R>
inline void dot_block(const float* const (&x)[R], const float* const (&w)[kTileOuts], int64_t begin,
                      int64_t end, __m256 (&acc)[R][kTileOuts]) {
  int64_t k = begin;
  for (; k + simd::kLanes <= end; k += simd::kLanes) {
    __m256 v[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) v[r] = _mm256_loadu_ps(x[r] + k);
#pragma GCC unroll 4
    for (int o = 0; o < kTileOuts; ++o) {
      const __m256 b = _mm256_loadu_ps(w[o] + k);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) acc[r][o] = _mm256_fmadd_ps(v[r], b, acc[r][o]);
    }
  }
  if (k == end) return;
  const __m256i mask = simd::lane_mask(end - k);
  __m256 v[R];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) v[r] = _mm256_maskload_ps(x[r] + k, mask);
#pragma GCC unroll 4
  for (int o = 0; o < kTileOuts; ++o) {
    const __m256 b = _mm256_maskload_ps(w[o] + k, mask);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) acc[r][o] = _mm256_fmadd_ps(v[r], b, acc[r][o]);
  }
}

// Rows [first, first + R) against one panel; writes the `outs` first outputs.
template <int R>
void dot_tile(const Rows& x, int64_t first, const Panel& panel, const Blocks& blocks, int outs,
              float* out, int64_t out_stride) {
  const float* rows[R];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) rows[r] = x.row(first + r);
  __m256 total[R][kTileOuts];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) std::fill_n(total[r], kTileOuts, _mm256_setzero_ps());
  int64_t begin = 0;
  for (int64_t block = 0; block < blocks.count(); ++block) {
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
#pragma GCC unroll 4
    for (int o = 0; o < outs; ++o) out[(first + r) * out_stride + o] = simd::sum(total[r][o]);
  }
}

void dot_panel(const Rows& x, const Panel& panel, const Blocks& blocks, int outs, float* out,
               int64_t out_stride) {
  int64_t i = 0;
  for (; i + kTileRows <= x.count; i += kTileRows) {
    dot_tile<kTileRows>(x, i, panel, blocks, outs, out, out_stride);
  }
  if (x.count - i == 2) dot_tile<2>(x, i, panel, blocks, outs, out, out_stride);
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
    for (; i + simd::kLanes <= n; i += simd::kLanes) {
      _mm256_storeu_ps(out + i, simd::load_bf16(p + i));
    }
    for (; i < n; ++i) out[i] = bf16_to_float(p[i]);
  } else {
    std::memcpy(out, weight.values.as<float>() + at, static_cast<size_t>(n) * sizeof(float));
  }
}

constexpr float kOne = 1.0F;

int64_t padded(int64_t n) { return (n + 15) / 16 * 16; }

}  // namespace

int64_t matmul_scratch_floats(const Weight& weight, int32_t threads) {
  return threads * kTileOuts * padded(weight.in());
}

void matmul(const Rows& x, const Weight& weight, float* out, int64_t out_stride, ThreadPool& pool,
            float* scratch) {
  const bool scaled = weight.format == WeightFormat::kFp8Block;
  const Blocks blocks =
      scaled ? Blocks{weight.in(), weight.block_columns, weight.first_column_in_block}
             : Blocks{weight.in(), weight.in(), 0};
  const int64_t row_floats = padded(weight.in());
  const auto part = [&](int64_t begin, int64_t end, int32_t worker) {
    float* mine = scratch + worker * kTileOuts * row_floats;
    for (int64_t o = begin; o < end; o += kTileOuts) {
      const int outs = static_cast<int>(std::min<int64_t>(kTileOuts, end - o));
      Panel panel;
      for (int i = 0; i < kTileOuts; ++i) {
        const int64_t row = o + std::min(i, outs - 1);
        panel.rows[i] = mine + std::min(i, outs - 1) * row_floats;
        if (i < outs) decode_row(weight, row, mine + i * row_floats);
        panel.scales[i] = scaled
                              ? weight.scales.as<float>() +
                                    weight.scale_rows.as<int32_t>()[row] * weight.scales.stride[0]
                              : &kOne;
      }
      dot_panel(x, panel, blocks, outs, out + o, out_stride);
    }
  };
  // Decoding a weight costs about as much as three products with it.
  pool.split(weight.out(), kTileOuts, (x.count + 3) * weight.out() * weight.in(), part);
}

void dot_rows(const Rows& x, const Matrix& b, float scale, float* out, int64_t out_stride) {
  const Blocks blocks{x.columns, x.columns, 0};
  for (int64_t o = 0; o < b.rows; o += kTileOuts) {
    const int outs = static_cast<int>(std::min<int64_t>(kTileOuts, b.rows - o));
    Panel panel;
    for (int i = 0; i < kTileOuts; ++i) {
      panel.rows[i] = b.data + (o + std::min(i, outs - 1)) * b.stride;
      panel.scales[i] = &scale;
    }
    dot_panel(x, panel, blocks, outs, out + o, out_stride);
  }
}

namespace {

// R rows by up to 16 columns of out, over all of k.
template <int R>
void add_tile(const Rows& x, int64_t first, const Matrix& b, int64_t column, int64_t columns,
              float* out, int64_t out_stride) {
  const __m256i low = simd::lane_mask(std::min<int64_t>(columns, 8));
  const __m256i high = simd::lane_mask(std::max<int64_t>(columns - 8, 0));
  const float* rows[R];
  __m256 acc[R][2];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
    rows[r] = x.row(first + r);
    float* to = out + (first + r) * out_stride + column;
    acc[r][0] = _mm256_maskload_ps(to, low);
    acc[r][1] = _mm256_maskload_ps(to + 8, high);
  }
  const float* from = b.data + column;
  if (columns == 16) {
    for (int64_t k = 0; k < b.rows; ++k, from += b.stride) {
      const __m256 b0 = _mm256_loadu_ps(from);
      const __m256 b1 = _mm256_loadu_ps(from + 8);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const __m256 v = _mm256_broadcast_ss(rows[r] + k);
        acc[r][0] = _mm256_fmadd_ps(v, b0, acc[r][0]);
        acc[r][1] = _mm256_fmadd_ps(v, b1, acc[r][1]);
      }
    }
  } else {
    for (int64_t k = 0; k < b.rows; ++k, from += b.stride) {
      const __m256 b0 = _mm256_maskload_ps(from, low);
      const __m256 b1 = _mm256_maskload_ps(from + 8, high);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const __m256 v = _mm256_broadcast_ss(rows[r] + k);
        acc[r][0] = _mm256_fmadd_ps(v, b0, acc[r][0]);
        acc[r][1] = _mm256_fmadd_ps(v, b1, acc[r][1]);
      }
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
    float* to = out + (first + r) * out_stride + column;
    _mm256_maskstore_ps(to, low, acc[r][0]);
    _mm256_maskstore_ps(to + 8, high, acc[r][1]);
  }
}

}  // namespace

void add_product(const Rows& x, const Matrix& b, float* out, int64_t out_stride) {
  for (int64_t column = 0; column < b.columns; column += 16) {
    const int64_t columns = std::min<int64_t>(16, b.columns - column);
    int64_t i = 0;
    for (; i + 4 <= x.count; i += 4) add_tile<4>(x, i, b, column, columns, out, out_stride);
    for (; i < x.count; ++i) add_tile<1>(x, i, b, column, columns, out, out_stride);
  }
}

}  // namespace fathom
