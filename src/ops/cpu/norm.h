// RMSNorm of one row. Pure.
#pragma once

#include <cstdint>

namespace fathom {

// y = x / sqrt(mean(x^2) + epsilon) * weight; y may be x.
void rms_norm(const float* x, const float* weight, int64_t n, float epsilon, float* y);

}  // namespace fathom
