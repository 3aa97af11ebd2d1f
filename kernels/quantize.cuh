// Quantization in a kernel's last steps, without divisions that are calls (docs/numerics.md).
#pragma once

#include <cstdint>

namespace fathom::kernels {

// Two numbers of bf16, the first in the low half.
__device__ inline float2 bf16_values(uint32_t pair) {
  return {__uint_as_float(pair << 16), __uint_as_float(pair & 0xFFFF0000U)};
}

// x / scale as a division rounds it, where `inverse` is 1 / scale rounded (Markstein). No call: one
// would end the overlap of products across it.
__device__ inline float quotient(float x, float scale, float inverse) {
  const float q = x * inverse;
  return fmaf(fmaf(-q, scale, x), inverse, q);
}

// 1 / scale, but for the last bit of rare cases; of normal numbers.
__device__ inline float inverse_of(float scale) {
  float inverse;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(scale));
  return fmaf(inverse, fmaf(-scale, inverse, 1.0F), inverse);
}

// The scale of a group whose largest number this is.
__device__ inline float scale_of(float largest, bool ue8m0) {
  const float scale = quotient(largest, 448.0F, 1.0F / 448.0F);
  if (!ue8m0) return scale;
  const uint32_t bits = __float_as_uint(scale);
  const bool up = (bits & 0x7FFFFFU) != 0;
  return __uint_as_float(up ? (bits & 0x7F800000U) + 0x800000U : bits);
}

}  // namespace fathom::kernels
