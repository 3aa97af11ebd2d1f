// Which matrices have a packed copy, and how products of 1 to 128 rows read it: pure functions,
// tested without a GPU.
#pragma once

#include <optional>

#include "kernels/packed_plan.h"
#include "ops/cuda/choose_gemm.h"

namespace fathom {

// Of the problem W counts alone.
bool has_packed_form(const GemmProblem& problem);

// How W's packed copy is read; nothing where the kernel does not fit the problem. A row's bits
// depend on the plan's units and split, and so on the number of rows.
std::optional<kernels::PackedPlan> choose_packed(const GemmProblem& problem);

}  // namespace fathom
