// The one table of op cases: each builds its inputs from a seed as host arrays, gives them to a
// backend through Ops alone, and returns what the op computed. CpuOps is held to the float64 loops
// of `expected`, other backends to CpuOps; the op benchmark times `run`.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "fathom/ops.h"

namespace fathom::testing {

// Brings a backend's tensor to the host as float32 (e4m3 codes as their values).
using TensorReader = std::function<std::vector<float>(const Tensor&)>;

// The backend of machines with no GPU keeps tensors where the host can read them.
std::vector<float> read_host_tensor(const Tensor& tensor);

struct OpCase {
  std::string name;   // op and shape
  Numerics numerics;  // that the backend must have
  double tolerance;   // largest error, relative to the largest expected value
  std::function<std::vector<float>(Ops& ops, const TensorReader& read)> run;
  std::function<std::vector<double>()> expected;  // float64 loops over the same inputs
};

std::vector<OpCase> op_cases();

}  // namespace fathom::testing
