// Whether a step's decode and verify rows of grouped attention run on tensor cores, and how the
// work is cut: a pure function of the problem, tested without a GPU.
#pragma once

#include <cstdint>

#include "kernels/gqa_decode_plan.h"

namespace fathom {

struct GqaProblem {
  int32_t rows = 0;              // decode and verify rows, padding included
  int32_t query_tokens_max = 1;  // of a row
  int32_t heads = 0;
  int32_t kv_heads = 0;
  int32_t head_dims = 0;
  int32_t block_tokens = 64;
  int32_t blocks_max = 0;      // of a row's block table
  bool bf16 = true;            // queries; the cache too, or e4m3
  bool alone = false;          // these rows are the whole step, a token each, over a bf16 cache
  bool bf16_products = false;  // around them, else e4m3: how long the blocks before stay
  int32_t sms = 132;
  bool hopper = true;
};

// pair_tile 0: the plain kernel. Of what the plan holds only the shape of the grid depends on the
// problem's rows; where a row's arithmetic is cut does not.
kernels::GqaDecodePlan choose_gqa_decode(const GqaProblem& problem);

}  // namespace fathom
