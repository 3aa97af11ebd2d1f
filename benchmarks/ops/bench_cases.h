// The op benchmark's list: cases of the table's types in the shapes that models decode and prefill
// with. To add one, add a line to bench_cases.cpp.
#pragma once

#include <vector>

#include "ops/op_cases.h"

namespace fathom::bench {

std::vector<testing::OpCase> bench_cases();

}  // namespace fathom::bench
