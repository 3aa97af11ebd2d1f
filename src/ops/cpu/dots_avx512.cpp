// Products as dots of rows on 512-bit registers. A register holds the eight lanes of one output and
// the eight of the next, so that each output keeps the lanes, the order and the bits that it has in
// matmul.cpp; tiles are up to 6 rows by 8 outputs.
#include "ops/cpu/avx512.h"

#include <algorithm>

#include "base/float_formats.h"
#include "ops/cpu/products_avx512.h"
#include "ops/cpu/scale_blocks.h"
#include "ops/cpu/simd.h"

namespace fathom::avx512 {
namespace {

constexpr int kPairs = kPanelOuts / 2;
constexpr int kPairFloats = 2 * simd::kLanes;
constexpr int kGroupFloats = kPairs * kPairFloats;  // eight columns of a panel
constexpr int kRowsMax = 6;                         // 24 sums, four weights, one activation
constexpr int64_t kPrefetchPanels = 2;
constexpr float kOne = 1.0F;

int64_t groups_of(int64_t columns) { return (columns + simd::kLanes - 1) / simd::kLanes; }

int64_t groups_of(const ScaleBlocks& blocks) {
  int64_t groups = 0;
  int64_t begin = 0;
  for (int64_t block = 0; block < blocks.count(); ++block) {
    groups += groups_of(blocks.end(block) - begin);
    begin = blocks.end(block);
  }
  return groups;
}

// Eight outputs decoded: [groups, pairs, 2, 8], zeroes behind each block's last column; and their
// scales: [blocks, 8].
struct Panel {
  const float* values = nullptr;
  const float* scales = nullptr;

  FATHOM_AVX512 __m512 load(int pair, int64_t /*column*/, int64_t group) const {
    return _mm512_loadu_ps(values + group * kGroupFloats + pair * kPairFloats);
  }
  FATHOM_AVX512 __m512 load_part(int pair, int64_t column, int64_t group, int64_t /*n*/) const {
    return load(pair, column, group);
  }
  FATHOM_AVX512 __m512 scale(int pair, int64_t block) const {
    const __m256i even = _mm256_set1_epi32(2 * pair);
    const __m256i odd = _mm256_set1_epi32(2 * pair + 1);
    return _mm512_permutexvar_ps(
        _mm512_inserti32x8(_mm512_castsi256_si512(even), odd, 1),
        _mm512_castps256_ps512(_mm256_loadu_ps(scales + block * kPanelOuts)));
  }
};

FATHOM_AVX512 inline __m512 load_pair(const float* a, const float* b) {
  return _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_loadu_ps(a)), _mm256_loadu_ps(b), 1);
}

FATHOM_AVX512 inline __m512 load_pair(const uint16_t* a, const uint16_t* b) {
  const __m256i bits = _mm256_inserti128_si256(
      _mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(a))),
      _mm_loadu_si128(reinterpret_cast<const __m128i*>(b)), 1);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

// Eight rows of a matrix as they lie, all with one scale; rows past the matrix repeat its last.
template <typename T>
struct MatrixRows {
  const T* rows[kPanelOuts];
  float factor;

  FATHOM_AVX512 __m512 load(int pair, int64_t column, int64_t /*group*/) const {
    return load_pair(rows[2 * pair] + column, rows[2 * pair + 1] + column);
  }
  FATHOM_AVX512 __m512 load_part(int pair, int64_t column, int64_t /*group*/, int64_t n) const {
    return _mm512_insertf32x8(_mm512_castps256_ps512(simd::load_part(rows[2 * pair] + column, n)),
                              simd::load_part(rows[2 * pair + 1] + column, n), 1);
  }
  FATHOM_AVX512 __m512 scale(int /*pair*/, int64_t /*block*/) const {
    return _mm512_set1_ps(factor);
  }
};

// Columns [begin, end), the groups of the panel from `group` on.
template <int R, typename Weights>
FATHOM_AVX512 inline void dot_block(const float* const (&x)[R], const Weights& w, int64_t begin,
                                    int64_t end, int64_t group, __m512 (&acc)[R][kPairs]) {
  int64_t k = begin;
  for (; k + simd::kLanes <= end; k += simd::kLanes, ++group) {
    __m512 b[kPairs];
#pragma GCC unroll 8
    for (int p = 0; p < kPairs; ++p) b[p] = w.load(p, k, group);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const __m512 v = _mm512_broadcast_f32x8(_mm256_loadu_ps(x[r] + k));
#pragma GCC unroll 8
      for (int p = 0; p < kPairs; ++p) acc[r][p] = _mm512_fmadd_ps(v, b[p], acc[r][p]);
    }
  }
  if (k == end) return;
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    const __m512 v = _mm512_broadcast_f32x8(simd::load_part(x[r] + k, end - k));
#pragma GCC unroll 8
    for (int p = 0; p < kPairs; ++p) {
      acc[r][p] = _mm512_fmadd_ps(v, w.load_part(p, k, group, end - k), acc[r][p]);
    }
  }
}

// _mm256_hadd_ps of wider registers.
FATHOM_AVX512 inline __m512 add_neighbours(__m512 a, __m512 b) {
  return _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xDD));
}

// The sums of eight outputs, each added in the order of simd::sum4; writes the `outs` first.
FATHOM_AVX512 inline void store_sums(const __m512 (&total)[kPairs], int outs, float* to) {
  // Quarters: the even outputs' lanes 0 to 3 and 4 to 7, then the odd ones'.
  const __m512 quarters =
      add_neighbours(add_neighbours(total[0], total[1]), add_neighbours(total[2], total[3]));
  const __m512 halves = _mm512_add_ps(quarters, _mm512_shuffle_f32x4(quarters, quarters, 0xB1));
  const __m128 even = _mm512_castps512_ps128(halves);
  const __m128 odd = _mm512_extractf32x4_ps(halves, 2);
  const __m256 sums = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_unpacklo_ps(even, odd)),
                                           _mm_unpackhi_ps(even, odd), 1);
  _mm256_mask_storeu_ps(to, static_cast<__mmask8>((1 << outs) - 1), sums);
}

// Rows [first, first + R) against eight outputs; writes the `outs` first.
template <int R, typename Weights>
FATHOM_AVX512 void dot_tile(const Rows& x, int64_t first, const Weights& w,
                            const ScaleBlocks& blocks, int outs, float* out, int64_t out_stride) {
  const float* rows[R];
  __m512 total[R][kPairs];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    rows[r] = x.row(first + r);
#pragma GCC unroll 8
    for (int p = 0; p < kPairs; ++p) total[r][p] = _mm512_setzero_ps();
  }
  const int64_t count = blocks.count();
  int64_t begin = 0;
  int64_t group = 0;
  for (int64_t block = 0; block < count; ++block) {
    const int64_t end = blocks.end(block);
    __m512 part[R][kPairs];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int p = 0; p < kPairs; ++p) part[r][p] = _mm512_setzero_ps();
    }
    dot_block<R>(rows, w, begin, end, group, part);
    __m512 scales[kPairs];
#pragma GCC unroll 8
    for (int p = 0; p < kPairs; ++p) scales[p] = w.scale(p, block);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const __m512 row_scale =
          _mm512_set1_ps(x.scales == nullptr ? 1.0F : x.row_scales(first + r)[block]);
#pragma GCC unroll 8
      for (int p = 0; p < kPairs; ++p) {
        const __m512 scale = _mm512_mul_ps(row_scale, scales[p]);
        total[r][p] = _mm512_fmadd_ps(part[r][p], scale, total[r][p]);
      }
    }
    group += groups_of(end - begin);
    begin = end;
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) store_sums(total[r], outs, out + (first + r) * out_stride);
}

// All rows against eight outputs, in tiles as even as they can be.
template <typename Weights>
void dot_rows_of(const Rows& x, const Weights& w, const ScaleBlocks& blocks, int outs, float* out,
                 int64_t out_stride) {
  const int64_t tiles = (x.count + kRowsMax - 1) / kRowsMax;
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const int64_t i = x.count * tile / tiles;
    switch (x.count * (tile + 1) / tiles - i) {
      case 1: dot_tile<1>(x, i, w, blocks, outs, out, out_stride); break;
      case 2: dot_tile<2>(x, i, w, blocks, outs, out, out_stride); break;
      case 3: dot_tile<3>(x, i, w, blocks, outs, out, out_stride); break;
      case 4: dot_tile<4>(x, i, w, blocks, outs, out, out_stride); break;
      case 5: dot_tile<5>(x, i, w, blocks, outs, out, out_stride); break;
      default: dot_tile<6>(x, i, w, blocks, outs, out, out_stride); break;
    }
  }
}

// Sixteen columns of two rows of e4m3 codes without NaN, as two groups of a panel. A code in the
// high byte of a half, moved right by one, is that half with an exponent 8 too small.
FATHOM_AVX512 inline void decode_sixteen(const uint8_t* a, const uint8_t* b, float* to) {
  const __m256i codes = _mm256_inserti128_si256(
      _mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(a))),
      _mm_loadu_si128(reinterpret_cast<const __m128i*>(b)), 1);
  const __m256i zero = _mm256_setzero_si256();
  const __m256i keep = _mm256_set1_epi16(static_cast<int16_t>(0xBFFF));
  const __m256i left = _mm256_srai_epi16(_mm256_unpacklo_epi8(zero, codes), 1);
  const __m256i right = _mm256_srai_epi16(_mm256_unpackhi_epi8(zero, codes), 1);
  const __m512 up = _mm512_set1_ps(256.0F);
  _mm512_storeu_ps(to, _mm512_mul_ps(_mm512_cvtph_ps(_mm256_and_si256(left, keep)), up));
  _mm512_storeu_ps(to + kGroupFloats,
                   _mm512_mul_ps(_mm512_cvtph_ps(_mm256_and_si256(right, keep)), up));
}

// The last n < 16 columns.
FATHOM_AVX512 void decode_rest(const uint8_t* a, const uint8_t* b, int64_t n, float* to) {
  uint8_t left[16] = {};
  uint8_t right[16] = {};
  std::copy_n(a, n, left);
  std::copy_n(b, n, right);
  float groups[2 * kGroupFloats];
  decode_sixteen(left, right, groups);
  for (int64_t g = 0; g < groups_of(n); ++g) {
    _mm512_storeu_ps(to + g * kGroupFloats, _mm512_loadu_ps(groups + g * kGroupFloats));
  }
}

// n columns of two rows to the groups from `to` on, zeroes behind the last.
FATHOM_AVX512 inline void decode_pair(const uint8_t* a, const uint8_t* b, int64_t n, float* to) {
  int64_t k = 0;
  for (; k + 16 <= n; k += 16, to += 2 * kGroupFloats) decode_sixteen(a + k, b + k, to);
  if (k < n) decode_rest(a + k, b + k, n - k, to);
}

template <typename T>
FATHOM_AVX512 inline void decode_pair(const T* a, const T* b, int64_t n, float* to) {
  int64_t k = 0;
  for (; k + simd::kLanes <= n; k += simd::kLanes, to += kGroupFloats) {
    _mm512_storeu_ps(to, load_pair(a + k, b + k));
  }
  if (k == n) return;
  _mm256_storeu_ps(to, simd::load_part(a + k, n - k));
  _mm256_storeu_ps(to + simd::kLanes, simd::load_part(b + k, n - k));
}

// The blocks that are decoded as one: all of them where each but the last ends with a group.
ScaleBlocks stretches(const ScaleBlocks& blocks) {
  const bool whole = blocks.width % simd::kLanes == 0 && blocks.offset % simd::kLanes == 0;
  return whole ? ScaleBlocks{blocks.columns, blocks.columns, 0} : blocks;
}

template <typename T>
FATHOM_AVX512 void decode_panel(const Weight& weight, const ScaleBlocks& stretches, int64_t output,
                                int outs, float* values) {
  for (int pair = 0; pair < kPairs; ++pair) {
    const T* rows[2];
    for (int i = 0; i < 2; ++i) {
      const int from = std::min(2 * pair + i, outs - 1);
      rows[i] = weight.values.as<T>() + (output + from) * weight.values.stride[0];
    }
    float* to = values + pair * kPairFloats;
    int64_t begin = 0;
    for (int64_t block = 0; block < stretches.count(); ++block) {
      const int64_t n = stretches.end(block) - begin;
      decode_pair(rows[0] + begin, rows[1] + begin, n, to);
      to += groups_of(n) * kGroupFloats;
      begin += n;
    }
  }
}

void gather_scales(const Weight& weight, const ScaleBlocks& blocks, int64_t output, int outs,
                   float* scales) {
  for (int i = 0; i < kPanelOuts; ++i) {
    const float* from = scales_of(weight, output + std::min(i, outs - 1), &kOne);
    for (int64_t block = 0; block < blocks.count(); ++block) {
      scales[block * kPanelOuts + i] = from[block];
    }
  }
}

// Asks for the start of rows [row, end), a panel to come, while this one is multiplied.
void prefetch(const Tensor& values, int64_t row, int64_t end) {
  constexpr int64_t kLine = 64;
  constexpr int64_t kBytesMax = 4096;  // from there on the processor sees the stream itself
  if (row >= end) return;
  const int64_t row_bytes = values.stride[0] * dtype_bytes(values.dtype);
  const char* from = values.as<char>() + row * row_bytes;
  const int64_t bytes = std::min(std::min<int64_t>(end - row, kPanelOuts) * row_bytes, kBytesMax);
  for (int64_t i = 0; i < bytes; i += kLine) _mm_prefetch(from + i, _MM_HINT_T0);
}

template <typename T>
void dot_matrix(const Rows& x, const Matrix& b, float scale, float* out, int64_t out_stride) {
  const ScaleBlocks blocks{x.columns, x.columns, 0};
  for (int64_t o = 0; o < b.rows; o += kPanelOuts) {
    const int outs = static_cast<int>(std::min<int64_t>(kPanelOuts, b.rows - o));
    MatrixRows<T> w;
    w.factor = scale;
    for (int i = 0; i < kPanelOuts; ++i) {
      w.rows[i] = static_cast<const T*>(b.data) + (o + std::min(i, outs - 1)) * b.stride;
    }
    dot_rows_of(x, w, blocks, outs, out + o, out_stride);
  }
}

}  // namespace

int64_t panel_floats(const Weight& weight) {
  const ScaleBlocks blocks = scale_blocks(weight);
  return groups_of(blocks) * kGroupFloats + blocks.count() * kPairFloats;
}

void matmul_part(const Rows& x, const Weight& weight, int64_t begin, int64_t end, float* out,
                 int64_t out_stride, float* panel) {
  const ScaleBlocks blocks = scale_blocks(weight);
  float* scales = panel + groups_of(blocks) * kGroupFloats;
  const ScaleBlocks decoded = stretches(blocks);
  const Panel w{panel, scales};
  for (int64_t o = begin; o < end; o += kPanelOuts) {
    const int outs = static_cast<int>(std::min<int64_t>(kPanelOuts, end - o));
    switch (weight.format) {
      case WeightFormat::kFp8Block: decode_panel<uint8_t>(weight, decoded, o, outs, panel); break;
      case WeightFormat::kBF16: decode_panel<uint16_t>(weight, decoded, o, outs, panel); break;
      case WeightFormat::kF32: decode_panel<float>(weight, decoded, o, outs, panel); break;
    }
    gather_scales(weight, blocks, o, outs, scales);
    prefetch(weight.values, o + kPrefetchPanels * kPanelOuts, end);
    dot_rows_of(x, w, blocks, outs, out + o, out_stride);
  }
}

void dot_rows(const Rows& x, const Matrix& b, float scale, float* out, int64_t out_stride) {
  if (b.dtype == DType::kF32)
    dot_matrix<float>(x, b, scale, out, out_stride);
  else
    dot_matrix<uint16_t>(x, b, scale, out, out_stride);
}

}  // namespace fathom::avx512
