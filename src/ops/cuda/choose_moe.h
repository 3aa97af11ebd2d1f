// Which kernels run a step's experts: a pure function of the problem, tested without a GPU.
#pragma once

#include <cstdint>

#include "fathom/weight.h"

namespace fathom {

struct MoeProblem {
  int64_t tokens = 0;
  int32_t experts_per_token = 0;
  int32_t experts = 0;       // of the router
  int32_t experts_here = 0;  // of this rank
  int64_t hidden = 0;
  int64_t width = 0;  // of an expert
  WeightFormat weight = WeightFormat::kBF16;
  ActFormat act = ActFormat::kBF16;  // of both products' inputs
  int32_t first_column_in_block = 0;
  bool deterministic = false;      // a token's sums may not depend on `tokens`
  bool scale_rows_aligned = true;  // the matrices' scale blocks are whole, of 128 rows
  bool hopper = true;
};

enum class MoeKernel : uint8_t { kPlain, kFewTokens, kGrouped };

// Whether the grouped products can run the problem, whatever its tokens.
bool suits_grouped(const MoeProblem& problem);

MoeKernel choose_moe(const MoeProblem& problem);

// A step's tokens and a layer's shape for the kernels that overlap (kernels/moe_few.h).
struct MoeFewProblem {
  int64_t tokens = 0;
  int32_t experts = 0;       // of the router
  int32_t experts_here = 0;  // of this rank
  int64_t hidden = 0;
  int64_t width = 0;
  bool fp8 = false;
};

// Whether they take the step: their blocks hold all tokens of a product.
bool few_tokens_fit(const MoeFewProblem& problem);

}  // namespace fathom
