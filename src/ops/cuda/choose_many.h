// Whether a product of many rows in e4m3, or in bf16 with float32 results, runs on the kernel of
// our own (kernels/many_gemm.h): a pure function of the problem, tested without a GPU.
#pragma once

#include <cstdint>

#include "fathom/weight.h"

namespace fathom {

struct ManyProblem {
  int64_t rows = 0;  // of x
  int64_t out = 0;   // rows of W
  int64_t in = 0;
  WeightFormat weight = WeightFormat::kBF16;
  ActFormat act = ActFormat::kBF16;
  bool gated = false;          // silu(gate) * up of the two halves of W
  bool float_out = false;      // sums are stored in float32: a vocabulary's
  bool whole_blocks = false;   // W's scales are of whole blocks of 128 rows, from column 0 on
  bool aligned = true;         // all data, scales too, and their strides: multiples of 16 bytes
  bool shares = true;          // there is room for sums of shared items
  bool deterministic = false;  // a row's sums may not depend on `rows`
  int32_t sms = 132;
  bool hopper = true;
};

// False: the tall kernel, cuBLASLt, or what choose_gemm says.
bool choose_many(const ManyProblem& problem);

}  // namespace fathom
