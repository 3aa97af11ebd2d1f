// Reading, rounding and quantizing activations.
#include "ops/cpu/activation.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/float_formats.h"
#include "ops/cpu/simd.h"

namespace fathom {

void store_floats(const float* x, int64_t n, DType dtype, void* to, int64_t at) {
  if (dtype == DType::kF32) {
    std::memcpy(static_cast<float*>(to) + at, x, static_cast<size_t>(n) * sizeof(float));
    return;
  }
  FATHOM_CHECK(dtype == DType::kBF16, "activations are float32 or bfloat16");
  uint16_t* out = static_cast<uint16_t*>(to) + at;
  int64_t i = 0;
  for (; i + simd::kLanes <= n; i += simd::kLanes) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i), simd::to_bf16(_mm256_loadu_ps(x + i)));
  }
  for (; i < n; ++i) out[i] = float_to_bf16(x[i]);
}

void load_floats(const void* from, DType dtype, int64_t at, int64_t n, float* x) {
  if (dtype == DType::kF32) {
    std::memcpy(x, static_cast<const float*>(from) + at, static_cast<size_t>(n) * sizeof(float));
    return;
  }
  FATHOM_CHECK(dtype == DType::kBF16, "activations are float32 or bfloat16");
  const uint16_t* in = static_cast<const uint16_t*>(from) + at;
  int64_t i = 0;
  for (; i + simd::kLanes <= n; i += simd::kLanes) {
    _mm256_storeu_ps(x + i, simd::load(in + i));
  }
  for (; i < n; ++i) x[i] = bf16_to_float(in[i]);
}

void round_floats(float* x, int64_t n, DType dtype) {
  if (dtype == DType::kF32) return;
  int64_t i = 0;
  for (; i + simd::kLanes <= n; i += simd::kLanes) {
    _mm256_storeu_ps(x + i, simd::round_bf16(_mm256_loadu_ps(x + i)));
  }
  for (; i < n; ++i) x[i] = round_to_bf16(x[i]);
}

float quantize_group(const float* x, int64_t n, ScaleForm form, uint8_t* codes) {
  const __m256 sign = _mm256_set1_ps(-0.0F);
  __m256 largest = _mm256_set1_ps(1e-4F);
  int64_t i = 0;
  for (; i + simd::kLanes <= n; i += simd::kLanes) {
    largest = _mm256_max_ps(_mm256_andnot_ps(sign, _mm256_loadu_ps(x + i)), largest);
  }
  float peak = simd::max(largest);
  for (; i < n; ++i) peak = std::max(peak, std::fabs(x[i]));
  float scale = peak / kE4m3Max;
  if (form == ScaleForm::kPowerOfTwo) scale = power_of_two_at_least(scale);
  if (form == ScaleForm::kBF16) scale = bf16_at_least(scale);
  const __m256 by = _mm256_set1_ps(scale);
  for (i = 0; i + simd::kLanes <= n; i += simd::kLanes) {
    const __m256 v = _mm256_div_ps(_mm256_loadu_ps(x + i), by);
    simd::store_bytes(simd::to_e4m3(v), codes + i);
  }
  for (; i < n; ++i) codes[i] = float_to_e4m3(x[i] / scale);
  return scale;
}

int64_t scale_groups(int64_t columns, const ActSpec& spec) {
  return (spec.first_column_in_block + columns + 127) / 128;
}

Act make_act(int64_t rows, int64_t columns, const ActSpec& spec, Arena& arena) {
  Act act;
  act.spec = spec;
  switch (spec.format) {
    case ActFormat::kF32: act.data = arena.take(DType::kF32, {rows, columns}); break;
    case ActFormat::kBF16: act.data = arena.take(DType::kBF16, {rows, columns}); break;
    case ActFormat::kFp8Block:
      act.data = arena.take(DType::kF8E4M3, {rows, columns});
      act.scales = arena.take(DType::kF32, {rows, scale_groups(columns, spec)});
      break;
  }
  return act;
}

void write_row(float* row, const Act& act, int64_t i) {
  const int64_t columns = act.data.shape[1];
  const int64_t at = i * act.data.stride[0];
  if (act.spec.format != ActFormat::kFp8Block) {
    store_floats(row, columns, act.data.dtype, act.data.data, at);
    return;
  }
  round_floats(row, columns, DType::kBF16);
  uint8_t* codes = act.data.as<uint8_t>() + at;
  float* scales = act.scales.as<float>() + i * act.scales.stride[0];
  const ScaleForm form = act.spec.ue8m0 ? ScaleForm::kPowerOfTwo : ScaleForm::kFloat;
  int64_t begin = 0;
  for (int64_t group = 0; begin < columns; ++group) {
    const int64_t end = std::min(columns, (group + 1) * 128 - act.spec.first_column_in_block);
    scales[group] = quantize_group(row + begin, end - begin, form, codes + begin);
    begin = end;
  }
}

void gate_rows(float* rows, int64_t count, int64_t width) {
  const __m256 one = _mm256_set1_ps(1.0F);
  for (int64_t i = 0; i < count; ++i) {
    float* gate = rows + i * 2 * width;
    const float* up = gate + width;
    int64_t k = 0;
    for (; k + simd::kLanes <= width; k += simd::kLanes) {
      const __m256 g = _mm256_loadu_ps(gate + k);
      const __m256 low = _mm256_max_ps(g, _mm256_set1_ps(-88.0F));
      const __m256 e = simd::exp(_mm256_sub_ps(_mm256_setzero_ps(), low));
      const __m256 silu = _mm256_div_ps(g, _mm256_add_ps(one, e));
      _mm256_storeu_ps(gate + k, _mm256_mul_ps(silu, _mm256_loadu_ps(up + k)));
    }
    for (; k < width; ++k) gate[k] = gate[k] / (1.0F + std::exp(-gate[k])) * up[k];
  }
}

Rows read_rows(const Tensor& x, float* data) {
  const int64_t count = x.shape[0];
  const int64_t columns = x.shape[1];
  if (x.dtype == DType::kF32) return Rows{x.as<float>(), x.stride[0], count, columns};
  for (int64_t i = 0; i < count; ++i) {
    load_floats(x.data, x.dtype, i * x.stride[0], columns, data + i * columns);
  }
  return Rows{data, columns, count, columns};
}

Rows read_rows(const Tensor& x, Arena& arena) {
  if (x.dtype == DType::kF32) return read_rows(x, nullptr);
  return read_rows(x, arena.take(DType::kF32, {x.shape[0], x.shape[1]}).as<float>());
}

Rows read_rows(const Act& x, Arena& arena) {
  if (x.spec.format != ActFormat::kFp8Block) return read_rows(x.data, arena);
  const Tensor& d = x.data;
  return read_rows(x, arena.take(DType::kF32, {d.shape[0], d.shape[1]}).as<float>());
}

Rows read_rows(const Act& x, float* data) {
  if (x.spec.format != ActFormat::kFp8Block) return read_rows(x.data, data);
  const int64_t count = x.data.shape[0];
  const int64_t columns = x.data.shape[1];
  for (int64_t i = 0; i < count; ++i) {
    const uint8_t* codes = x.data.as<uint8_t>() + i * x.data.stride[0];
    float* row = data + i * columns;
    int64_t k = 0;
    for (; k + 16 <= columns; k += 16) simd::decode_e4m3(codes + k, row + k);
    for (; k < columns; ++k) row[k] = e4m3_to_float(codes[k]);
  }
  Rows rows{data, columns, count, columns};
  rows.scales = x.scales.as<float>();
  rows.scale_stride = x.scales.stride[0];
  return rows;
}

}  // namespace fathom
