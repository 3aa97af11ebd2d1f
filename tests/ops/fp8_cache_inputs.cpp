// Quantized caches by their definition.
#include "ops/fp8_cache_inputs.h"

#include <cstring>

namespace fathom::testing {
namespace {

float scale_of(const float* x, int64_t n) {
  float largest = 1e-4F;
  for (int64_t i = 0; i < n; ++i) largest = std::max(largest, std::fabs(x[i]));
  return largest / 448.0F;
}

// The codes of n numbers, which are rounded to bf16 first; returns their scale, rounded up to bf16
// if asked.
float quantize(std::vector<float> x, bool bf16_scale, uint8_t* codes) {
  for (float& v : x) v = round_to_bf16(v);
  const auto n = static_cast<int64_t>(x.size());
  float scale = scale_of(x.data(), n);
  if (bf16_scale) {
    const uint16_t nearest = float_to_bf16(scale);
    scale = bf16_to_float(bf16_to_float(nearest) < scale ? nearest + 1 : nearest);
  }
  for (int64_t i = 0; i < n; ++i) codes[i] = float_to_e4m3(x[i] / scale);
  return scale;
}

std::vector<float> cut(const std::vector<float>& numbers, int64_t at, int64_t n) {
  std::vector<float> part(n);
  for (int64_t i = 0; i < n; ++i)
    part[i] = numbers[(at + i) % static_cast<int64_t>(numbers.size())];
  return part;
}

Tensor place_blocks(Ops& ops, std::vector<uint8_t> bytes, int64_t blocks, int64_t tokens,
                    int64_t entry) {
  return ops
      .place(host_tensor(std::move(bytes), DType::kF8E4M3, {blocks, tokens, entry}),
             DType::kF8E4M3)
      .value();
}

}  // namespace

std::vector<double> Fp8Entries::values(std::vector<double> entries) const {
  for (size_t at = 0; at < entries.size(); at += width) {
    for (int64_t begin = 0; begin < quantized; begin += group) {
      const int64_t n = std::min(group, quantized - begin);
      double* x = entries.data() + at + begin;
      std::vector<uint8_t> codes(n);
      const float scale = quantize({x, x + n}, bf16_scales, codes.data());
      for (int64_t i = 0; i < n; ++i) x[i] = double{e4m3_to_float(codes[i])} * scale;
    }
  }
  return entries;
}

Tensor place_fp8_heads(Ops& ops, const Fp8HeadsLayout& layout, int64_t blocks,
                       const std::vector<float>& numbers) {
  std::vector<uint8_t> bytes(blocks * layout.block_bytes());
  const int64_t dims = layout.head_dims;
  for (int64_t t = 0; t < blocks * layout.block_tokens; ++t) {
    uint8_t* block = bytes.data() + t / layout.block_tokens * layout.block_bytes();
    const int64_t inside = t % layout.block_tokens;
    for (int64_t i = 0; i < 2 * layout.kv_heads; ++i) {
      const int64_t half = i / layout.kv_heads;
      const int64_t head = i % layout.kv_heads;
      const uint16_t scale =
          float_to_bf16(quantize(cut(numbers, (t * 2 * layout.kv_heads + i) * dims, dims), true,
                                 block + layout.codes_at(inside, half, head)));
      std::memcpy(block + layout.scale_at(inside, half, head), &scale, sizeof scale);
    }
  }
  return place_blocks(ops, std::move(bytes), blocks, layout.block_tokens, layout.entry_bytes());
}

Tensor place_fp8_latents(Ops& ops, const Fp8LatentLayout& layout, int64_t blocks,
                         int64_t block_tokens, const std::vector<float>& numbers) {
  const int64_t width = layout.kv_lora + layout.rope_dims;
  std::vector<uint8_t> bytes(blocks * block_tokens * layout.entry_bytes());
  for (int64_t t = 0; t < blocks * block_tokens; ++t) {
    uint8_t* entry = bytes.data() + t * layout.entry_bytes();
    for (int64_t g = 0; g < layout.groups(); ++g) {
      const int64_t begin = g * Fp8LatentLayout::kGroup;
      const int64_t n = std::min(layout.kv_lora - begin, Fp8LatentLayout::kGroup);
      const float scale = quantize(cut(numbers, t * width + begin, n), false, entry + begin);
      std::memcpy(entry + layout.scales_at() + 4 * g, &scale, sizeof scale);
    }
    const std::vector<float> rope = cut(numbers, t * width + layout.kv_lora, layout.rope_dims);
    for (int64_t i = 0; i < layout.rope_dims; ++i) {
      const uint16_t bits = float_to_bf16(rope[i]);
      std::memcpy(entry + layout.rope_at() + 2 * i, &bits, sizeof bits);
    }
  }
  return place_blocks(ops, std::move(bytes), blocks, block_tokens, layout.entry_bytes());
}

}  // namespace fathom::testing
