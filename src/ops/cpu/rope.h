// Rotary embedding of one vector, in both layouts of pairs (models.md 2.2). Pure.
#pragma once

#include <cstdint>

namespace fathom {

// Pairs (x[2i], x[2i+1]): latent attention.
inline void rope_interleaved(float* x, const float* cosines, const float* sines, int64_t pairs) {
  for (int64_t i = 0; i < pairs; ++i) {
    const float even = x[2 * i];
    const float odd = x[2 * i + 1];
    x[2 * i] = even * cosines[i] - odd * sines[i];
    x[2 * i + 1] = odd * cosines[i] + even * sines[i];
  }
}

// Pairs (x[i], x[i + pairs]): Llama and Qwen.
inline void rope_halves(float* x, const float* cosines, const float* sines, int64_t pairs) {
  for (int64_t i = 0; i < pairs; ++i) {
    const float low = x[i];
    const float high = x[i + pairs];
    x[i] = low * cosines[i] - high * sines[i];
    x[i + pairs] = high * cosines[i] + low * sines[i];
  }
}

}  // namespace fathom
