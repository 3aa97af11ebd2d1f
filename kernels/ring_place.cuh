// Where one thread or warp stands in a ring of stages in shared memory.
#pragma once

#include <cstdint>

namespace fathom::kernels {

// A stage, and the parity of the rounds before: what its barriers are waited for with.
template <uint32_t kStages>
struct RingPlace {
  uint32_t index = 0;
  uint32_t phase = 0;

  __device__ void advance() {
    if (++index == kStages) {
      index = 0;
      phase ^= 1U;
    }
  }
};

}  // namespace fathom::kernels
