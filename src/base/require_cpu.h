// What every program of ours asks of the processor; require_cpu.cpp ends those that lack it.
#pragma once

namespace fathom {

// What cmake/fathom.cmake compiles for, as far as a processor may lack it.
struct CpuInstructions {
  bool avx2 = false;
  bool fma = false;
  bool f16c = false;
  bool bmi2 = false;
};

// The name of the first that is not there; null: all are.
const char* missing_instructions(const CpuInstructions& has);

}  // namespace fathom
