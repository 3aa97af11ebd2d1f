// The AVX2 building blocks of the CPU backend (the build's floor is x86-64-v3). Pure functions.
// Every function's arithmetic depends on its own operands alone, in a fixed order.
#pragma once

#include <immintrin.h>

#include <cmath>
#include <cstdint>

#include "base/float_formats.h"

namespace fathom::simd {

inline constexpr int64_t kLanes = 8;

// Lanes [0, n) set; n in [0, 8].
inline __m256i lane_mask(int64_t n) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), lane);
}

inline float sum(__m256 v) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

inline float max(__m256 v) {
  __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  m = _mm_max_ps(m, _mm_movehl_ps(m, m));
  return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}

// {sum(a), sum(b), sum(c), sum(d)}, each added in the same order.
inline __m128 sum4(__m256 a, __m256 b, __m256 c, __m256 d) {
  const __m256 s = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
  return _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
}

inline __m256 load(const float* p) { return _mm256_loadu_ps(p); }
// Eight bfloat16 values.
inline __m256 load(const uint16_t* p) {
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

// The first n < 8 values, and zeroes.
inline __m256 load_part(const float* p, int64_t n) { return _mm256_maskload_ps(p, lane_mask(n)); }
inline __m256 load_part(const uint16_t* p, int64_t n) {
  alignas(16) uint16_t bits[kLanes] = {};
  for (int64_t i = 0; i < n; ++i) bits[i] = p[i];
  return load(bits);
}

// float_to_bf16 of eight finite values.
inline __m128i to_bf16(__m256 v) {
  const __m256i bits = _mm256_castps_si256(v);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_srli_epi32(
      _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7FFF)), odd), 16);
  return _mm_packus_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1));
}

// round_to_bf16 of eight finite values.
inline __m256 round_bf16(__m256 v) {
  const __m256i bits = _mm256_castps_si256(v);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7FFF)), odd);
  return _mm256_castsi256_ps(
      _mm256_and_si256(rounded, _mm256_set1_epi32(static_cast<int>(0xFFFF0000U))));
}

// Sixteen e4m3 codes without NaN. Shifted by 7 a code is a half whose exponent is 8 too small.
inline void decode_e4m3(const uint8_t* p, float* out) {
  const __m256i wide = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  const __m256i sign = _mm256_slli_epi16(_mm256_and_si256(wide, _mm256_set1_epi16(0x80)), 8);
  const __m256i rest = _mm256_slli_epi16(_mm256_and_si256(wide, _mm256_set1_epi16(0x7F)), 7);
  const __m256i half = _mm256_or_si256(sign, rest);
  const __m256 up = _mm256_set1_ps(256.0F);
  _mm256_storeu_ps(out, _mm256_mul_ps(_mm256_cvtph_ps(_mm256_castsi256_si128(half)), up));
  _mm256_storeu_ps(out + 8, _mm256_mul_ps(_mm256_cvtph_ps(_mm256_extracti128_si256(half, 1)), up));
}

// float_to_e4m3 of eight finite values, as the low bytes of eight words.
inline __m256i to_e4m3(__m256 v) {
  const __m256i bits = _mm256_castps_si256(v);
  const __m256i sign = _mm256_and_si256(_mm256_srli_epi32(bits, 24), _mm256_set1_epi32(0x80));
  const __m256 magnitude =
      _mm256_min_ps(_mm256_andnot_ps(_mm256_set1_ps(-0.0F), v), _mm256_set1_ps(kE4m3Max));
  const __m256i m = _mm256_castps_si256(magnitude);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(m, 20), _mm256_set1_epi32(1));
  const __m256i rounded =
      _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(m, _mm256_set1_epi32(0x7FFFF)), odd), 20);
  const __m256i normal = _mm256_sub_epi32(rounded, _mm256_set1_epi32(120 << 3));
  const __m256i tiny =
      _mm256_and_si256(_mm256_castps_si256(_mm256_add_ps(magnitude, _mm256_set1_ps(0x1p14F))),
                       _mm256_set1_epi32(0xF));
  const __m256 is_tiny = _mm256_cmp_ps(magnitude, _mm256_set1_ps(0x1p-6F), _CMP_LT_OQ);
  const __m256i code = _mm256_blendv_epi8(normal, tiny, _mm256_castps_si256(is_tiny));
  return _mm256_or_si256(code, sign);
}

// Packs the low bytes of eight words.
inline void store_bytes(__m256i words, uint8_t* to) {
  const __m128i halves =
      _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(to), _mm_packus_epi16(halves, halves));
}

// to += factor * x, fused.
inline void add_scaled(float factor, const float* x, int64_t n, float* to) {
  const __m256 by = _mm256_set1_ps(factor);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    _mm256_storeu_ps(to + i, _mm256_fmadd_ps(by, _mm256_loadu_ps(x + i), _mm256_loadu_ps(to + i)));
  }
  for (; i < n; ++i) to[i] = std::fma(factor, x[i], to[i]);
}

// x *= factor.
inline void scale(float factor, int64_t n, float* x) {
  const __m256 by = _mm256_set1_ps(factor);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    _mm256_storeu_ps(x + i, _mm256_mul_ps(by, _mm256_loadu_ps(x + i)));
  }
  for (; i < n; ++i) x[i] *= factor;
}

// exp(x) for x <= 88, about 1 ulp; 0 below -87. Cephes' reduction and polynomial.
inline __m256 exp(__m256 x) {
  const __m256 low = _mm256_set1_ps(-87.0F);
  const __m256 under = _mm256_cmp_ps(x, low, _CMP_LT_OQ);
  x = _mm256_max_ps(x, low);
  const __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504088896341F)),
                                   _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  x = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375F), x);
  x = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4F), x);
  __m256 y = _mm256_set1_ps(1.9875691500e-4F);
  y = _mm256_fmadd_ps(y, x, _mm256_set1_ps(1.3981999507e-3F));
  y = _mm256_fmadd_ps(y, x, _mm256_set1_ps(8.3334519073e-3F));
  y = _mm256_fmadd_ps(y, x, _mm256_set1_ps(4.1665795894e-2F));
  y = _mm256_fmadd_ps(y, x, _mm256_set1_ps(1.6666665459e-1F));
  y = _mm256_fmadd_ps(y, x, _mm256_set1_ps(5.0000001201e-1F));
  y = _mm256_fmadd_ps(y, _mm256_mul_ps(x, x), _mm256_add_ps(x, _mm256_set1_ps(1.0F)));
  const __m256i power =
      _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
  return _mm256_andnot_ps(under, _mm256_mul_ps(y, _mm256_castsi256_ps(power)));
}

// The largest of p[0, n); -infinity for none. NaN entries are ignored.
inline float max_of(const float* p, int64_t n) {
  const __m256 none = _mm256_set1_ps(-__builtin_inff());
  __m256 best = none;
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) best = _mm256_max_ps(_mm256_loadu_ps(p + i), best);
  if (i < n) {
    const __m256i mask = lane_mask(n - i);
    const __m256 v =
        _mm256_blendv_ps(none, _mm256_maskload_ps(p + i, mask), _mm256_castsi256_ps(mask));
    best = _mm256_max_ps(v, best);
  }
  return max(best);
}

// out = exp((in - shift) * factor) for n values; returns their sum. in may equal out.
inline float exp_sum(const float* in, float* out, int64_t n, float shift, float factor) {
  const __m256 s = _mm256_set1_ps(shift);
  const __m256 f = _mm256_set1_ps(factor);
  __m256 total = _mm256_setzero_ps();
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const __m256 e = exp(_mm256_mul_ps(_mm256_sub_ps(_mm256_loadu_ps(in + i), s), f));
    _mm256_storeu_ps(out + i, e);
    total = _mm256_add_ps(total, e);
  }
  if (i < n) {
    const __m256i mask = lane_mask(n - i);
    __m256 e = exp(_mm256_mul_ps(_mm256_sub_ps(_mm256_maskload_ps(in + i, mask), s), f));
    e = _mm256_and_ps(e, _mm256_castsi256_ps(mask));
    _mm256_maskstore_ps(out + i, mask, e);
    total = _mm256_add_ps(total, e);
  }
  return sum(total);
}

}  // namespace fathom::simd
