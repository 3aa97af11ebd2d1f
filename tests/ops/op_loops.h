// Definitions in float64 loops, for the expected values of op cases.
#pragma once

#include <vector>

#include "ops/op_inputs.h"

namespace fathom::testing {

// x times w transposed.
std::vector<double> product(const HostMatrix& x, const HostMatrix& w);

// What a native op's output is rounded to; `reference` rounds nothing.
std::vector<double> rounded(std::vector<double> values, Numerics numerics);

// RMSNorm with epsilon 1e-6.
std::vector<double> norm_by_definition(const HostMatrix& x, const std::vector<float>& weight);

// silu(gate) * up of rows [gate | up] of 2 * width.
std::vector<double> gated(const std::vector<double>& both, int64_t width);

// Rows quantized per group of 128 columns, groups starting at absolute columns (models.md 2.14).
struct QuantizedRows {
  std::vector<uint8_t> codes;
  std::vector<float> scales;  // [rows, groups]
  int64_t groups = 0;
  HostMatrix matrix;  // codes times scales
};
QuantizedRows quantized_rows(const HostMatrix& x, int32_t first_column, bool ue8m0);
Act place_quantized(Ops& ops, const QuantizedRows& rows, const ActSpec& spec);

}  // namespace fathom::testing
