// The op set on the CPU: the oracle of every other backend, and the backend of machines with no
// GPU. One object per rank, called by that rank's thread; it owns a small thread pool.
#pragma once

#include <cstdint>
#include <memory>

#include "fathom/ops.h"
#include "ops/cpu/instructions.h"

namespace fathom {

struct CpuOpsOptions {
  Numerics numerics = Numerics::kReference;
  int32_t threads = 1;                                // the caller is one of them
  int64_t arena_bytes = int64_t{256} << 20;           // of a step; pages are touched only when used
  Instructions instructions = widest_instructions();  // tests compare the kinds
};

// Results are a function of each row alone: batch composition, chunking of a prompt and the number
// of threads do not change a bit. docs/numerics.md lists every rounding point.
std::unique_ptr<Ops> make_cpu_ops(const CpuOpsOptions& options);

}  // namespace fathom
