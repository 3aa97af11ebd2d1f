// What a block does at its turn (turn.h). By one thread.
#pragma once

#include "turn.h"

namespace fathom::kernels {

__device__ inline void await_turn(const Turn& turn) {
  constexpr int kPolls = 128;  // of half a microsecond or so, in a loop: code comes from memory
#pragma unroll 1
  for (int i = 0; turn.wanted != 0 && i < kPolls; ++i) {
    uint32_t count;
    asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(count) : "l"(turn.before) : "memory");
    if (count >= turn.wanted) return;
    __nanosleep(40);
  }
}

// After wait_for_earlier_kernels(), by one block, before it ends its own turn.
__device__ inline void begin_turns(const Turn& turn) {
  if (turn.next != nullptr && blockIdx.x == 0) *turn.next = 0;
}

__device__ inline void end_turn(const Turn& turn) {
  if (turn.mine != nullptr) atomicAdd(turn.mine, 1U);
}

}  // namespace fathom::kernels
