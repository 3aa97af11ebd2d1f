// What the processor says that it can do.
#include "ops/cpu/instructions.h"

namespace fathom {

Instructions widest_instructions() {
  const bool avx512 =
      __builtin_cpu_supports("avx512f") != 0 && __builtin_cpu_supports("avx512bw") != 0 &&
      __builtin_cpu_supports("avx512dq") != 0 && __builtin_cpu_supports("avx512vl") != 0;
  return avx512 ? Instructions::kAvx512 : Instructions::kAvx2;
}

}  // namespace fathom
