// Exact conversions between float32 and the small formats of DeepSeek checkpoints: bfloat16, FP8
// e4m3 ("fn": no infinities, largest 448, NaN is 0x7F and 0xFF) and power-of-two scales. Pure
// functions.
#pragma once

#include <array>
#include <bit>
#include <cstdint>

namespace fathom {

inline constexpr float kE4m3Max = 448.0F;

inline float bf16_to_float(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }

// Round to nearest, ties to even; NaN stays a quiet NaN.
inline uint16_t float_to_bf16(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  if ((bits & 0x7FFFFFFFU) > 0x7F800000U) return static_cast<uint16_t>((bits >> 16) | 0x40U);
  return static_cast<uint16_t>((bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16);
}

inline float round_to_bf16(float x) { return bf16_to_float(float_to_bf16(x)); }

inline float f16_to_float(uint16_t bits) {
  const uint32_t sign = uint32_t{bits & 0x8000U} << 16;
  const uint32_t rest = bits & 0x7FFFU;
  if (rest >= 0x7C00U) return std::bit_cast<float>(sign | 0x7F800000U | ((rest & 0x3FFU) << 13));
  // Shifted into place the exponent is 112 too small; the product restores it, subnormals included.
  const float magnitude = std::bit_cast<float>(rest << 13) * 0x1p112F;
  return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
}

constexpr float decode_e4m3(uint8_t code) {
  const uint32_t exponent = (code >> 3) & 15U;
  const uint32_t mantissa = code & 7U;
  if ((code & 0x7FU) == 0x7FU) return std::bit_cast<float>(0x7FC00000U);
  float magnitude = static_cast<float>(mantissa) * 0x1p-9F;
  if (exponent != 0) {
    magnitude = std::bit_cast<float>(((exponent + 120U) << 23) | (mantissa << 20));
  }
  return (code & 0x80U) != 0 ? -magnitude : magnitude;
}

inline constexpr std::array<float, 256> kE4m3Values = [] {
  std::array<float, 256> values{};
  for (uint32_t i = 0; i < 256; ++i) values[i] = decode_e4m3(static_cast<uint8_t>(i));
  return values;
}();

inline float e4m3_to_float(uint8_t code) { return kE4m3Values[code]; }

// Round to nearest, ties to even; saturates at 448; NaN gives NaN.
inline uint8_t float_to_e4m3(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint32_t sign = (bits >> 24) & 0x80U;
  const uint32_t magnitude = bits & 0x7FFFFFFFU;
  if (magnitude > 0x7F800000U) return static_cast<uint8_t>(sign | 0x7FU);
  if (magnitude >= std::bit_cast<uint32_t>(kE4m3Max)) return static_cast<uint8_t>(sign | 0x7EU);
  if (magnitude < std::bit_cast<uint32_t>(0x1p-6F)) {
    // Steps of 2^-9: adding 2^14 makes float32's own rounding do the work.
    const float stepped = std::bit_cast<float>(magnitude) + 0x1p14F;
    return static_cast<uint8_t>(sign | (std::bit_cast<uint32_t>(stepped) & 0xFU));
  }
  const uint32_t rounded = (magnitude + 0x7FFFFU + ((magnitude >> 20) & 1U)) >> 20;
  return static_cast<uint8_t>(sign | (rounded - (120U << 3)));
}

// The smallest power of two that is not less than x (x > 0, finite): a ue8m0 scale.
inline float power_of_two_at_least(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint32_t up = (bits & 0x7FFFFFU) != 0 ? 1U : 0U;
  return std::bit_cast<float>(((bits >> 23) + up) << 23);
}

// The smallest bf16 number that is not less than x (x > 0, below the largest).
inline float bf16_at_least(float x) {
  return std::bit_cast<float>((std::bit_cast<uint32_t>(x) + 0xFFFFU) & 0xFFFF0000U);
}

}  // namespace fathom
