// The one table of op cases. Each builds its inputs from a seed as host arrays and gives them to a
// backend through Ops alone. CpuOps is held to float64 (loops of these files, or vectors that
// PyTorch computed: tests/golden/ops), other backends to CpuOps, and the op benchmark times the
// same cases in larger shapes (benchmarks/op_bench_cases.cpp).
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "fathom/ops.h"
#include "ops/tolerances.h"

namespace fathom::testing {

// One thing that a call wrote.
struct OpOutput {
  std::string name;
  Act act;  // a plain tensor, or codes with their scales
  // Every backend must write the same bytes: integers, and quantization of equal inputs.
  bool exact = false;
  std::vector<int64_t> rows_left_out = {};  // padding, whose content nobody reads
};

// A case with its inputs in one backend's memory. Calls may be repeated; those of ops that change
// the slot table go on from where the last one ended.
struct PreparedOp {
  // Outputs lie in the arena until the caller's ArenaScope ends, or in memory of the case.
  std::function<std::vector<OpOutput>()> launch;
};

using ExpectedValues = std::vector<std::vector<double>>;  // by output

// What tests/golden/ops/make_op_vectors.py wrote, by name.
using GoldenVectors = std::map<std::string, std::vector<float>>;
GoldenVectors read_golden_vectors(const std::string& path);
// The vector `name`; the process ends when there is none.
std::vector<double> golden_vector(const GoldenVectors& vectors, const std::string& name);

struct OpCase {
  std::string op;     // as the interface names it
  std::string shape;  // what tells it from the others of its op
  Numerics numerics = Numerics::kReference;
  Precision precision = Precision::kFloat32;
  std::function<PreparedOp(Ops& ops)> prepare;
  std::function<ExpectedValues(const GoldenVectors&)> expected;
  // Bytes that a call must move, where CountOps knows an upper bound alone (ragged contexts,
  // experts without a row).
  std::function<int64_t()> least_bytes = {};
  bool cpu_only = false;  // what the CUDA backend does not have: several ranks, a naive form in f32
  bool hopper_only = false;  // the CUDA backend has it on Hopper alone: the naive form
  // Kernels that smaller cases run too, in a shape that takes seconds under a sanitizer.
  bool repeats = false;

  std::string name() const;
};

// Every row of the table.
std::vector<OpCase> op_cases();

// By file.
std::vector<OpCase> dense_cases();
std::vector<OpCase> row_cases();
std::vector<OpCase> attention_cases();
std::vector<OpCase> fp8_latent_cases();
std::vector<OpCase> gqa_cases();
std::vector<OpCase> moe_cases();
std::vector<OpCase> frame_cases();
std::vector<OpCase> sample_cases();

}  // namespace fathom::testing
