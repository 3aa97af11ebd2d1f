// Whether and how a product in e4m3 runs on the tall kernel: a pure function of the problem, tested
// without a GPU.
#pragma once

#include <cstdint>
#include <optional>

#include "kernels/tall_plan.h"

namespace fathom {

struct TallProblem {
  int64_t rows = 0;  // of x
  int64_t out = 0;   // rows of W
  int64_t in = 0;
  bool gated = false;          // silu(gate) * up of the two halves of W, quantized
  bool whole_blocks = false;   // W's scales are of whole blocks of 128 rows, from column 0 on
  bool aligned = true;         // data and row strides of x, W and output: multiples of 16 bytes
  bool deterministic = false;  // a row's sums may not depend on `rows`
  bool hopper = true;
  int32_t sms = 132;
};

// Nothing: what choose_gemm says.
std::optional<kernels::TallPlan> choose_tall(const TallProblem& problem);

// Of qkv in heads of 128 columns, which this product makes ready for attention. Nothing: a kernel
// of its own behind the product does that in less time.
std::optional<kernels::TallPlan> choose_tall_heads(const TallProblem& problem);

// Microseconds on an H100 of what is chosen: the tall kernel's, or cuBLASLt's with the kernels
// beside it.
double tall_or_library_us(const TallProblem& problem);

}  // namespace fathom
