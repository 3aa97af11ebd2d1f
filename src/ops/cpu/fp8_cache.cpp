// Caches of e4m3 numbers: quantized when they are written, decoded when they are read.
#include "ops/cpu/fp8_cache.h"

#include <algorithm>
#include <cstring>

#include "base/float_formats.h"
#include "ops/cpu/activation.h"
#include "ops/cpu/simd.h"

namespace fathom {
namespace {

void store_scale(float scale, uint8_t* to) { std::memcpy(to, &scale, sizeof scale); }

float load_scale(const uint8_t* from) {
  float scale = 0.0F;
  std::memcpy(&scale, from, sizeof scale);
  return scale;
}

void decode(const uint8_t* codes, int64_t n, float scale, float* x) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) simd::decode_e4m3(codes + i, x + i);
  for (; i < n; ++i) x[i] = e4m3_to_float(codes[i]);
  for (i = 0; i < n; ++i) x[i] *= scale;
}

}  // namespace

void store_fp8_head(const Fp8HeadsLayout& layout, uint8_t* block, int64_t token, int64_t half,
                    int64_t head, float* x) {
  round_floats(x, layout.head_dims, DType::kBF16);
  uint8_t* codes = block + layout.codes_at(token, half, head);
  const uint16_t scale =
      float_to_bf16(quantize_group(x, layout.head_dims, ScaleForm::kBF16, codes));
  std::memcpy(block + layout.scale_at(token, half, head), &scale, sizeof scale);
}

void load_fp8_heads(const Fp8HeadsLayout& layout, const uint8_t* block, int64_t count,
                    int64_t half, int64_t head, float* x) {
  for (int64_t t = 0; t < count; ++t) {
    uint16_t scale = 0;
    std::memcpy(&scale, block + layout.scale_at(t, half, head), sizeof scale);
    decode(block + layout.codes_at(t, half, head), layout.head_dims, bf16_to_float(scale),
           x + t * layout.head_dims);
  }
}

void store_fp8_latent(const Fp8LatentLayout& layout, uint8_t* entry, float* x) {
  round_floats(x, layout.kv_lora, DType::kBF16);
  for (int64_t g = 0; g < layout.groups(); ++g) {
    const int64_t begin = g * Fp8LatentLayout::kGroup;
    const int64_t n = std::min(layout.kv_lora - begin, Fp8LatentLayout::kGroup);
    store_scale(quantize_group(x + begin, n, ScaleForm::kFloat, entry + begin),
                entry + layout.scales_at() + 4 * g);
  }
  store_floats(x + layout.kv_lora, layout.rope_dims, DType::kBF16, entry + layout.rope_at(), 0);
}

void load_fp8_latent(const Fp8LatentLayout& layout, const uint8_t* entry, float* x) {
  for (int64_t g = 0; g < layout.groups(); ++g) {
    const int64_t begin = g * Fp8LatentLayout::kGroup;
    const int64_t n = std::min(layout.kv_lora - begin, Fp8LatentLayout::kGroup);
    decode(entry + begin, n, load_scale(entry + layout.scales_at() + 4 * g), x + begin);
  }
  load_floats(entry + layout.rope_at(), DType::kBF16, 0, layout.rope_dims, x + layout.kv_lora);
}

}  // namespace fathom
