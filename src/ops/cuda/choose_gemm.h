// Which kernel runs a linear layer, and how: a pure function of the problem, tested without a GPU.
#pragma once

#include <cstdint>

#include "fathom/weight.h"
#include "kernels/skinny_plan.h"

namespace fathom {

struct GemmProblem {
  int64_t rows = 0;  // of x
  int64_t out = 0;   // rows of W
  int64_t in = 0;
  WeightFormat weight = WeightFormat::kBF16;
  ActFormat act = ActFormat::kBF16;
  int32_t first_column_in_block = 0;
  bool aligned = true;  // data and row strides of x and W are multiples of 16 bytes
  int32_t sms = 132;
};

enum class GemmKernel : uint8_t { kPlain, kSkinny };

struct GemmChoice {
  GemmKernel kernel = GemmKernel::kPlain;
  kernels::SkinnyPlan skinny;
};

// kSkinny wherever the formats and the alignment allow it; rows past its token tile's take further
// passes. The order of sums over K depends on `out`, `in`, the format and `sms`, never on `rows`.
GemmChoice choose_gemm(const GemmProblem& problem);

}  // namespace fathom
