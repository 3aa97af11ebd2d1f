// Whether rows are worked on eight columns at a time: a pure function of how they lie in memory,
// tested without a GPU.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "fathom/tensor.h"
#include "fathom/weight.h"

namespace fathom {

// All of `rows` (inputs and outputs of one kernel, [n, columns], null where there is none) lie at
// multiples of eight columns and 16 bytes, in formats that the kernels of kernels/rows.h take.
bool rows_in_vectors(std::initializer_list<const Tensor*> rows);

// Whether groups of quantization start where the kernels' vectors do.
bool groups_in_vectors(const ActSpec& spec);

}  // namespace fathom
