// Bounds of the kernels for few tokens of a mixture of experts, and their blocks' shared memory;
// known to choosers, which see no CUDA.
#pragma once

#include <cstdint>

namespace fathom::kernels {

inline constexpr int32_t kMoeDecodeTokensMax = 64;
inline constexpr int32_t kMoeDecodePairsMax = 512;
inline constexpr int32_t kMoeExpertsMax = 512;
inline constexpr int32_t kMoeTileTokens = 8;  // tokens of one expert that share a pass

// At most so many tiles for `pairs` (token, choice) pairs over `experts` experts.
inline int32_t moe_tiles_max(int32_t pairs, int32_t experts) {
  const int32_t all = experts + pairs / kMoeTileTokens;
  return pairs < all ? pairs : all;
}

// ---- The four kernels that overlap (moe_few.h).

inline constexpr int32_t kMoeFewTokensMax = 32;
inline constexpr int32_t kMoeRouteTokens = 8;  // of one block of the router
// Rows that the router's kernel norms: each of its blocks norms all of them.
inline constexpr int32_t kMoeNormTokensMax = 4;
inline constexpr int32_t kMoeNormColumnsMax = 2048;
// Of sums that wait for the norm behind them: float32 rows, and choices of 4 bytes.
inline constexpr int64_t kMoeOpenRowWords = int64_t{1} << 19;
inline constexpr int64_t kMoeOpenPairsMax = 1024;
inline constexpr int32_t kMoePostWords = kMoeRouteTokens * kMoeExpertsMax;
// Of the router's blocks of each eight tokens, then of the items that each product has given out.
inline constexpr int32_t kMoeArrivalWords = kMoeFewTokensMax / kMoeRouteTokens + 2;
inline constexpr int32_t kMoeStepBytes = 128;                  // of a row, in one step of the ring
inline constexpr int32_t kMoeStageBytes = 64 * kMoeStepBytes;  // 64 rows of weights
inline constexpr int32_t kMoeStagesMax = 16;
inline constexpr int32_t kMoeStagesMin = 4;
inline constexpr int32_t kMoeStepsMax = 128;              // of a row of e4m3: 16,384 columns
inline constexpr int32_t kMoeClaims = 2 * kMoeStagesMax;  // items that a block remembers

// Tokens as the narrow side of the tensor core's product.
constexpr int32_t moe_token_tile(int32_t tokens) {
  return tokens <= 8 ? 8 : tokens <= 16 ? 16 : 32;
}

// Up to so many tokens each block of the products makes the choices itself: no block of the router
// has to wait for the others.
constexpr bool moe_choose_everywhere(int32_t tokens) { return tokens <= kMoeRouteTokens; }

// How one of the two products uses shared memory.
struct MoeFewPlan {
  int32_t token_tile = 0;
  int32_t steps = 0;   // of 128 bytes of a row
  int32_t stages = 0;  // of the ring of weights; 0: it does not fit
  int32_t bytes = 0;
};

// This kernel's block beside the next one's, or two of one kernel.
inline constexpr int32_t kMoeHalfOfSharedMemory = 233472 / 2 - 1024;

// Blocks of a product on each SM. With one token the next kernel's block in the other half is worth
// as much as a second one, with eight and more less.
constexpr int32_t moe_blocks_of_sm(int32_t tokens, const MoeFewPlan& plan) {
  return tokens >= 8 && plan.bytes <= kMoeHalfOfSharedMemory ? 2 : 1;
}

// down's, of so many items at most: two where each item can have a block at once. Second ones start
// as gate_up's blocks leave, and ask for their weights then, not when first ones are used up.
constexpr int32_t moe_down_blocks_of_sm(int32_t tokens, const MoeFewPlan& plan, int64_t items,
                                        int32_t sms) {
  const bool at_once = plan.bytes <= kMoeHalfOfSharedMemory && items <= 2 * int64_t{sms};
  return at_once ? 2 : moe_blocks_of_sm(tokens, plan);
}

// experts: of this rank, routed: of the router. row_bytes: of a row of weights. token_sets: rows of
// tokens of so many items at once.
constexpr MoeFewPlan moe_few_plan(int32_t tokens, int32_t experts, int32_t routed,
                                  int32_t row_bytes, int32_t token_sets) {
  constexpr int32_t kWhole = 227 * 1024;
  constexpr int32_t kHalf = kMoeHalfOfSharedMemory;
  MoeFewPlan plan;
  plan.token_tile = moe_token_tile(tokens);
  plan.steps = row_bytes / kMoeStepBytes;
  const int32_t x = plan.steps * plan.token_tile * (kMoeStepBytes + 4) * token_sets;
  const int32_t scales = 2 * 2 * plan.steps * 4;
  const int32_t choosing = moe_choose_everywhere(tokens) ? tokens * (32 + routed) * 4 : 0;
  const int32_t lists = experts * (4 + 2 + plan.token_tile) + 4 * 32 + 64 + choosing;
  const int32_t rest = x + scales + lists + 1024 + 16 * kMoeStagesMax + 12 * kMoeClaims + 64;
  int32_t room = kHalf - rest;
  if (room < 5 * kMoeStageBytes) room = kWhole - rest;
  const int32_t stages = room / kMoeStageBytes;
  if (stages < kMoeStagesMin || plan.steps > kMoeStepsMax) return plan;
  plan.stages = stages < kMoeStagesMax ? stages : kMoeStagesMax;
  plan.bytes = rest + plan.stages * kMoeStageBytes;
  return plan;
}

}  // namespace fathom::kernels
