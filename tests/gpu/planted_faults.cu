// One thread each.
#include "planted_faults.h"

namespace fathom::testing {
namespace {

__global__ void read_illegal(const int* address, int* out) { *out = *address; }

__global__ void trap() { __trap(); }

__global__ void spin(const volatile int* end) {
  while (*end == 0) {
  }
}

}  // namespace

void launch_fault(cudaStream_t stream, Fault fault) {
  auto* nowhere = reinterpret_cast<int*>(0x1000);
  switch (fault) {
    case Fault::kIllegalRead: read_illegal<<<1, 1, 0, stream>>>(nowhere, nowhere); break;
    case Fault::kTrap: trap<<<1, 1, 0, stream>>>(); break;
    case Fault::kEndless: {
      // A word that stays zero: host memory, so that nothing of the device is taken.
      void* word = nullptr;
      if (cudaHostAlloc(&word, sizeof(int), cudaHostAllocMapped) != cudaSuccess) return;
      *static_cast<int*>(word) = 0;
      spin<<<1, 1, 0, stream>>>(static_cast<const volatile int*>(word));
      break;
    }
  }
}

}  // namespace fathom::testing
