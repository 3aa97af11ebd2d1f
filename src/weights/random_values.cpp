// Word i of a tensor is a mix of key and i; eight bytes of it make eight, four or two elements.
#include "weights/random_values.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <vector>

#include "base/float_formats.h"

namespace fathom {
namespace {

constexpr int64_t kWordBytes = 8;
constexpr uint64_t kStep = 0x9e3779b97f4a7c15U;

// Finalizer of splitmix64 (Steele, Lea, Flood 2014).
uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9U;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebU;
  return x ^ (x >> 31);
}

uint64_t random_word(const ValueRecipe& recipe, int64_t i) {
  return mix(recipe.key + static_cast<uint64_t>(i) * kStep);
}

using Codes = std::array<uint8_t, 256>;

// The e4m3 code for every random byte.
Codes fp8_codes(const ValueRecipe& recipe) {
  Codes codes{};
  for (size_t i = 0; i < codes.size(); ++i) {
    const float u = (static_cast<float>(i) - 127.5F) / 128.0F;
    codes[i] = float_to_e4m3(recipe.center + recipe.spread * u);
  }
  return codes;
}

// Two codes at a time halve the look-ups, once the larger table has paid for itself.
void fill_fp8_many(const Codes& codes, const ValueRecipe& recipe, int64_t first_word, int64_t words,
                   std::byte* out) {
  std::vector<uint16_t> pairs(65536);
  for (size_t i = 0; i < pairs.size(); ++i) {
    pairs[i] = static_cast<uint16_t>(codes[i & 255U] | codes[i >> 8] << 8);
  }
  for (int64_t i = 0; i < words; ++i) {
    const uint64_t r = random_word(recipe, first_word + i);
    const uint64_t word = uint64_t{pairs[r & 0xffffU]} | uint64_t{pairs[r >> 16 & 0xffffU]} << 16 |
                          uint64_t{pairs[r >> 32 & 0xffffU]} << 32 | uint64_t{pairs[r >> 48]} << 48;
    std::memcpy(out + i * kWordBytes, &word, kWordBytes);
  }
}

void fill_fp8(const ValueRecipe& recipe, int64_t first_word, int64_t words, std::byte* out) {
  const Codes codes = fp8_codes(recipe);
  if (words > 65536) return fill_fp8_many(codes, recipe, first_word, words, out);
  for (int64_t i = 0; i < words; ++i) {
    uint64_t r = random_word(recipe, first_word + i);
    for (int64_t k = 0; k < kWordBytes; ++k, r >>= 8) {
      out[i * kWordBytes + k] = static_cast<std::byte>(codes[r & 255U]);
    }
  }
}

void fill_bf16(const ValueRecipe& recipe, int64_t first_word, int64_t words, std::byte* out) {
  const float step = recipe.spread / 32768.0F;
  for (int64_t i = 0; i < words; ++i) {
    const uint64_t r = random_word(recipe, first_word + i);
    std::array<uint16_t, 4> values{};
    for (size_t k = 0; k < 4; ++k) {
      const auto u = static_cast<float>(static_cast<int16_t>(r >> (16 * k)));
      values[k] = static_cast<uint16_t>(std::bit_cast<uint32_t>(recipe.center + step * u) >> 16);
    }
    std::memcpy(out + i * kWordBytes, values.data(), kWordBytes);
  }
}

void fill_f32(const ValueRecipe& recipe, int64_t first_word, int64_t words, std::byte* out) {
  const float step = recipe.spread / 2147483648.0F;
  // Halves and wholes have a root mean square of sqrt(5/8).
  const float power =
      std::exp2(std::round(std::log2(std::fabs(recipe.center) / std::sqrt(0.625F))));
  for (int64_t i = 0; i < words; ++i) {
    const uint64_t r = random_word(recipe, first_word + i);
    std::array<float, 2> values{};
    for (size_t k = 0; k < 2; ++k) {
      const auto bits = static_cast<uint32_t>(r >> (32 * k));
      const float uniform = recipe.center + step * static_cast<float>(static_cast<int32_t>(bits));
      const float halved = (bits & 1U) != 0 ? power : 0.5F * power;
      values[k] = recipe.powers_of_two ? halved : uniform;
    }
    std::memcpy(out + i * kWordBytes, values.data(), kWordBytes);
  }
}

void fill_words(const ValueRecipe& recipe, int64_t first, int64_t words, std::byte* out) {
  switch (recipe.dtype) {
    case DType::kF8E4M3: return fill_fp8(recipe, first, words, out);
    case DType::kBF16: return fill_bf16(recipe, first, words, out);
    case DType::kF32: return fill_f32(recipe, first, words, out);
    default: FATHOM_CHECK(false, "random values are F32, BF16 or F8_E4M3");
  }
}

}  // namespace

uint64_t value_key(uint64_t seed, std::string_view name) {
  uint64_t key = mix(seed + kStep);
  for (const char c : name) key = mix(key ^ static_cast<uint8_t>(c)) + kStep;
  return key;
}

void fill_values(const ValueRecipe& recipe, int64_t first, int64_t count, void* out) {
  const int64_t item = dtype_bytes(recipe.dtype);
  int64_t at = first * item;
  int64_t left = count * item;
  auto* to = static_cast<std::byte*>(out);
  // The words at both ends may belong to the slice in part.
  std::array<std::byte, kWordBytes> edge{};
  const auto part_of_word = [&] {
    const int64_t skip = at % kWordBytes;
    const int64_t n = std::min(left, kWordBytes - skip);
    fill_words(recipe, at / kWordBytes, 1, edge.data());
    std::memcpy(to, edge.data() + skip, static_cast<size_t>(n));
    at += n;
    left -= n;
    to += n;
  };
  if (left > 0 && at % kWordBytes != 0) part_of_word();
  if (const int64_t words = left / kWordBytes; words > 0) {
    fill_words(recipe, at / kWordBytes, words, to);
    at += words * kWordBytes;
    left -= words * kWordBytes;
    to += words * kWordBytes;
  }
  if (left > 0) part_of_word();
}

}  // namespace fathom
