// Registers between the warpgroups of a block (PTX ISA: setmaxnreg): what some give others take, of
// those that the block had at its launch. By whole warpgroups.
#pragma once

namespace fathom::kernels {

template <int kCount>
__device__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kCount));
}
template <int kCount>
__device__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kCount));
}

}  // namespace fathom::kernels
