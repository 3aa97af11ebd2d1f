// Rotary embedding of one vector: interleaved pairs (x[2i], x[2i+1]) (models.md 2.2). Pure.
#pragma once

#include <cstdint>

namespace fathom {

inline void rope_interleaved(float* x, const float* cosines, const float* sines, int64_t pairs) {
  for (int64_t i = 0; i < pairs; ++i) {
    const float even = x[2 * i];
    const float odd = x[2 * i + 1];
    x[2 * i] = even * cosines[i] - odd * sines[i];
    x[2 * i + 1] = odd * cosines[i] + even * sines[i];
  }
}

}  // namespace fathom
