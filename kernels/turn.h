// Kernels of a stream that fetch ahead take turns at the memory. Those that start early would fill
// its queues with weights that are wanted last; so each says when it has asked for all that it
// reads, and the next one asks for more than a little only then. Nothing but time depends on it:
// a wait for a turn has an end.
#pragma once

#include <cstdint>

namespace fathom::kernels {

// Counters of one kernel and its neighbours; none of its own: it takes no part.
struct Turn {
  const uint32_t* before = nullptr;
  uint32_t wanted = 0;       // what `before` counts to: blocks of the kernel before; 0: no wait
  uint32_t* mine = nullptr;  // every block adds one
  uint32_t* next = nullptr;  // of the kernel after, cleared when those before have ended
};

}  // namespace fathom::kernels
