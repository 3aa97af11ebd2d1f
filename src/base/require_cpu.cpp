// Ends a program on a processor without the instructions that our code is compiled for, with a
// sentence and before any of that code runs. This file alone is compiled for every x86-64; it uses
// no inline function of which the linker may keep another file's copy.
#include "base/require_cpu.h"

#include <string.h>
#include <unistd.h>

namespace fathom {
namespace {

constexpr int kExitUnavailable = 69;  // EX_UNAVAILABLE of sysexits.h

void say(const char* text) { (void)!::write(STDERR_FILENO, text, ::strlen(text)); }

__attribute__((constructor(101))) void require_cpu() {
  __builtin_cpu_init();
  const CpuInstructions has{
      __builtin_cpu_supports("avx2") != 0, __builtin_cpu_supports("fma") != 0,
      __builtin_cpu_supports("f16c") != 0, __builtin_cpu_supports("bmi2") != 0};
  const char* missing = missing_instructions(has);
  if (missing == nullptr) return;
  say("this program needs a processor with AVX2, FMA, F16C and BMI2 (x86-64-v3: Intel since "
      "Haswell, AMD since Zen); this one, or the virtual machine, has no ");
  say(missing);
  say("\n");
  ::_exit(kExitUnavailable);
}

}  // namespace

const char* missing_instructions(const CpuInstructions& has) {
  if (!has.avx2) return "AVX2";
  if (!has.fma) return "FMA";
  if (!has.f16c) return "F16C";
  return has.bmi2 ? nullptr : "BMI2";
}

}  // namespace fathom
