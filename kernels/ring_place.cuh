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

// The same where the number of stages is the launch's.
struct RingAt {
  int32_t stage = 0;
  uint32_t parity = 0;

  __device__ void next(int32_t stages) {
    if (++stage == stages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

}  // namespace fathom::kernels
