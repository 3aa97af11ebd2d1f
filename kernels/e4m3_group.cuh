// Numbers of a group of quantization divided by its scale. Dividing eight numbers one by one is the
// longest part of a norm or a gate that quantizes.
#pragma once

#include <cuda_fp8.h>

#include <cstdint>

namespace fathom::kernels {

// x / scale for |x| <= 448 scale, rounded as the division is: the remainder of the first quotient
// is exact, and corrects it (Markstein's theorem).
struct GroupDivision {
  float scale;
  float inverse;

  __device__ explicit GroupDivision(float of) : scale(of), inverse(1.0F / of) {}
  __device__ float quotient(float x) const {
    const float first = x * inverse;
    const float whole = __fmaf_rn(__fmaf_rn(-first, scale, x), inverse, first);
    return copysignf(whole, x);  // zero keeps its sign
  }
  // Two codes, x's in the low byte.
  __device__ uint32_t codes(float x, float y) const {
    return __nv_cvt_float2_to_fp8x2(make_float2(quotient(x), quotient(y)), __NV_SATFINITE,
                                    __NV_E4M3);
  }
};

}  // namespace fathom::kernels
