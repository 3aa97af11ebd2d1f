// KernelTrace: when each kernel on the GPU starts and ends, nodes of replayed graphs included, as
// CUPTI's activity records say. CUPTI is looked for at run time. One object, one thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "fathom/status.h"

namespace fathom::bench {

struct KernelSpan {
  std::string name;  // demangled
  uint64_t start_ns = 0;
  uint64_t end_ns = 0;
  int32_t grid = 0;  // blocks
  int32_t block = 0;  // threads
};

class KernelTrace {
 public:
  // Before the first use of the GPU. `library`: of CUPTI, a path or a name that the loader finds.
  static Result<std::unique_ptr<KernelTrace>> open(const std::string& library);
  ~KernelTrace();
  KernelTrace(const KernelTrace&) = delete;
  KernelTrace& operator=(const KernelTrace&) = delete;

  // All that has ended since the last call, in the order of their starts. The GPU is idle.
  Result<std::vector<KernelSpan>> take();

 private:
  KernelTrace() = default;
};

}  // namespace fathom::bench
