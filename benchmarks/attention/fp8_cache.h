// A cache of e4m3 entries for benchmarks (include/fathom/fp8_cache.h): random blocks as bytes, and
// their numbers back. On the host; one thread.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace fathom::bench {

// kv_heads 0: latents of 512 with float32 scales and 64 numbers of a rope key; heads have bf16
// scales.
struct Fp8Blocks {
  static constexpr int64_t kTokens = 64;
  int64_t kv_heads = 0;
  int64_t head_dims = 0;
  std::vector<uint8_t> bytes;

  int64_t width() const { return kv_heads == 0 ? 576 : 2 * kv_heads * head_dims; }
  int64_t block_bytes() const { return kTokens * (kv_heads == 0 ? 656 : width() + 4 * kv_heads); }
  bool is_code(int64_t k) const { return kv_heads > 0 || k < 512; }
  int64_t number_at(int64_t block, int64_t token, int64_t k) const {
    const int64_t first = block * block_bytes();
    if (kv_heads > 0) {
      return first + head_run(k) + (half(k) * kTokens + token) * head_dims + k % head_dims;
    }
    return first + token * 656 + (k < 512 ? k : 528 + 2 * (k - 512));
  }
  int64_t scale_at(int64_t block, int64_t token, int64_t k) const {
    const int64_t first = block * block_bytes();
    if (kv_heads == 0) return first + token * 656 + 512 + k / 128 * 4;
    return first + head_run(k) + 2 * kTokens * head_dims + (half(k) * kTokens + token) * 2;
  }

  // Codes of all magnitudes with scales that differ, so that numbers are 1 at most.
  void fill(int64_t blocks) {
    bytes.resize(static_cast<size_t>(blocks * block_bytes()));
    uint64_t x = 88172645463325252ULL;
    const auto next = [&x] {
      x ^= x << 13;
      x ^= x >> 7;
      return x ^= x << 17;
    };
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(next() >> 24) & 0xF7U;
    for (int64_t b = 0; b < blocks; ++b) {
      for (int64_t t = 0; t < kTokens; ++t) {
        const int64_t group = kv_heads == 0 ? 128 : head_dims;
        for (int64_t k = 0; k < (kv_heads == 0 ? 512 : width()); k += group) {
          const float scale = (0.3F + 0.7F * static_cast<float>(next() % 1024) / 1024.0F) / 240.0F;
          store_scale(scale_at(b, t, k), scale);
        }
        for (int64_t k = 512; kv_heads == 0 && k < 576; ++k) {
          const float number = static_cast<float>(next() % 2048) / 1024.0F - 1.0F;
          store_bf16(number_at(b, t, k), number);
        }
      }
    }
  }

  // NaNs in the tokens of a block from `used` on.
  void spoil(int64_t block, int64_t used) {
    const uint32_t nan = 0xFFFFFFFFU;
    const size_t scale_bytes = kv_heads == 0 ? 4 : 2;
    for (int64_t t = used; t < kTokens; ++t) {
      for (int64_t k = 0; k < width(); ++k) {
        std::memcpy(bytes.data() + number_at(block, t, k), &nan, is_code(k) ? 1 : 2);
        if (is_code(k)) std::memcpy(bytes.data() + scale_at(block, t, k), &nan, scale_bytes);
      }
    }
  }

  // Numbers [from, from + count) of all tokens of a block to `to`, rows of `width`.
  void numbers(int64_t block, int64_t from, int64_t count, float* to) const {
    for (int64_t t = 0; t < kTokens; ++t)
      for (int64_t k = from; k < from + count; ++k) to[t * width() + k] = number(block, t, k);
  }

 private:
  // Cut to bf16.
  void store_bf16(int64_t at, float x) {
    uint32_t word;
    std::memcpy(&word, &x, sizeof word);
    const auto bits = static_cast<uint16_t>(word >> 16);
    std::memcpy(bytes.data() + at, &bits, sizeof bits);
  }
  float load_bf16(int64_t at) const {
    uint16_t bits;
    std::memcpy(&bits, bytes.data() + at, sizeof bits);
    const uint32_t word = static_cast<uint32_t>(bits) << 16;
    float x;
    std::memcpy(&x, &word, sizeof x);
    return x;
  }
  void store_scale(int64_t at, float scale) {
    if (kv_heads > 0) return store_bf16(at, scale);
    std::memcpy(bytes.data() + at, &scale, sizeof scale);
  }
  int64_t half(int64_t k) const { return k / head_dims / kv_heads; }
  int64_t head_run(int64_t k) const {
    return k / head_dims % kv_heads * 2 * kTokens * (head_dims + 2);
  }
  static std::array<float, 256> decoded() {
    std::array<float, 256> all{};
    for (int code = 0; code < 256; ++code) {
      const int exponent = code >> 3 & 15;
      const auto digits = static_cast<float>(code & 7);
      const float size =
          exponent == 0 ? std::ldexp(digits, -9) : std::ldexp(8 + digits, exponent - 10);
      all[static_cast<size_t>(code)] = code >= 128 ? -size : size;
    }
    return all;
  }
  float number(int64_t block, int64_t token, int64_t k) const {
    if (!is_code(k)) return load_bf16(number_at(block, token, k));
    float scale;
    if (kv_heads > 0) {
      scale = load_bf16(scale_at(block, token, k));
    } else {
      std::memcpy(&scale, bytes.data() + scale_at(block, token, k), sizeof scale);
    }
    static const std::array<float, 256> values = decoded();
    return values[bytes[static_cast<size_t>(number_at(block, token, k))]] * scale;
  }
};

}  // namespace fathom::bench
