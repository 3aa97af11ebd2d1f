// How linear layers of 33 to 256 rows run on the wide kernel: pure functions of the problem, tested
// without a GPU.
#pragma once

#include <optional>

#include "kernels/wide_plan.h"
#include "ops/cuda/choose_gemm.h"

namespace fathom {

struct WideChoice {
  kernels::WidePlan plan;
  double us = 0.0;  // what it takes on an H100, about
};

// Nothing where no shape of the kernel suits the problem.
std::optional<WideChoice> choose_wide(const GemmProblem& problem);

}  // namespace fathom
