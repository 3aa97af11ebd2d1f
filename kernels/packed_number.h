// A bf16 number in 12 bits: sign and mantissa as they are, and a code of the exponent, its distance
// from a base that a whole matrix has. In the products an exponent of code c is kPackedExponent +
// c, so sums are those of the very numbers times a power of two. What has no code is an exception:
// it is kept in 16 bits, times the same power. No CUDA types: host and device.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define FATHOM_EVERYWHERE __host__ __device__
#else
#define FATHOM_EVERYWHERE
#endif

namespace fathom::kernels {

constexpr int32_t kPackedCodes = 16;
constexpr int32_t kPackedExponent = 112;  // of code 0, as the products see it
// Bases of which every code is a normal number's exponent, and the factor of sums a float's.
constexpr int32_t kPackedBaseMin = 1;
constexpr int32_t kPackedBaseMax = 239;

FATHOM_EVERYWHERE constexpr int32_t exponent_of(uint16_t bits) { return bits >> 7 & 0xFF; }
FATHOM_EVERYWHERE constexpr int32_t mantissa_of(uint16_t bits) { return bits & 0x7F; }

FATHOM_EVERYWHERE constexpr bool has_packed_code(uint16_t bits, int32_t base) {
  return exponent_of(bits) >= base && exponent_of(bits) < base + kPackedCodes;
}

FATHOM_EVERYWHERE constexpr uint16_t with_exponent(uint16_t bits, int32_t exponent,
                                                   int32_t mantissa) {
  return static_cast<uint16_t>((bits & 0x8000) | exponent << 7 | mantissa);
}

// The number times 2^(kPackedExponent - base); infinities and NaNs are what they were. Of a number
// that has no such product the result is another (unscaled() tells).
FATHOM_EVERYWHERE constexpr uint16_t scaled_for_packing(uint16_t bits, int32_t base) {
  const int32_t shift = kPackedExponent - base;
  int32_t exponent = exponent_of(bits);
  int32_t mantissa = mantissa_of(bits);
  if (exponent == 0xFF || (exponent == 0 && mantissa == 0)) return bits;
  if (exponent == 0) {  // below the normal numbers: as if it had an exponent
    exponent = 1;
    while (mantissa < 0x80) {
      mantissa *= 2;
      --exponent;
    }
    mantissa -= 0x80;
  }
  exponent += shift;
  if (exponent >= 0xFF) return with_exponent(bits, 0xFF, 0);
  if (exponent > 0) return with_exponent(bits, exponent, mantissa);
  return with_exponent(bits, 0, exponent < -6 ? 0 : (mantissa + 0x80) >> (1 - exponent));
}

// What scaled_for_packing() was given.
FATHOM_EVERYWHERE constexpr uint16_t unscaled(uint16_t bits, int32_t base) {
  return scaled_for_packing(bits, 2 * kPackedExponent - base);
}

// What sums of the scaled numbers are multiplied by, exactly: 2^(base - kPackedExponent).
constexpr float packed_factor(int32_t base) {
  float factor = 1.0F;
  for (int32_t i = kPackedExponent; i < base; ++i) factor *= 2.0F;
  for (int32_t i = base; i < kPackedExponent; ++i) factor *= 0.5F;
  return factor;
}

// The base under which the fewest numbers are exceptions, of how many there are of each exponent.
FATHOM_EVERYWHERE constexpr int32_t packed_base(const uint32_t* counts) {
  uint64_t most = 0;
  int32_t best = kPackedBaseMin;
  for (int32_t base = kPackedBaseMin; base <= kPackedBaseMax; ++base) {
    uint64_t held = 0;
    for (int32_t c = 0; c < kPackedCodes; ++c) held += counts[base + c];
    if (held > most) {
      most = held;
      best = base;
    }
  }
  return best;
}

}  // namespace fathom::kernels
