// Runs a case on a backend, brings its outputs to the host, and says how far two sets of outputs
// lie apart.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "ops/op_cases.h"

namespace fathom::testing {

// Copies a backend's tensor, its rows packed, to host memory.
using CopyToHost = std::function<void(const Tensor& from, void* to)>;

// Where the host can read the backend's memory.
void copy_from_host(const Tensor& from, void* to);

// One output on the host.
struct HostOutput {
  std::string name;
  std::vector<float> values;   // codes times scales where it is quantized
  std::vector<uint8_t> bytes;  // as the op wrote it: data, then scales
  bool exact = false;
  bool integers = false;
};

// One call. Rows left out are no part of the outputs. `ops` is synchronized before they are read.
std::vector<HostOutput> run_case(const OpCase& one, Ops& ops, const CopyToHost& copy);

// How far one output lies from what it should be, relative as tolerances.h says.
struct OutputError {
  std::string name;
  double largest = 0.0;
  double mean_square = 0.0;
  std::string complaint;  // empty: within the bound
};

std::vector<OutputError> compare_expected(const OpCase& one, const std::vector<HostOutput>& made,
                                          const ExpectedValues& expected);
std::vector<OutputError> compare_backends(const OpCase& one, const std::vector<HostOutput>& made,
                                          const std::vector<HostOutput>& oracle);

}  // namespace fathom::testing
