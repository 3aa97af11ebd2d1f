// Batches over a paged cache whose blocks lie scattered, with holes between them, for the cases of
// attention.
#pragma once

#include <cstdint>
#include <vector>

#include "ops/op_builders.h"
#include "ops/op_inputs.h"
#include "ops/slot_state.h"

namespace fathom::testing {

// The cache group of the two that the tables have: the other one's names no blocks.
constexpr int32_t kPagedGroup = 1;
// The cache's numbers repeat after as many.
constexpr int64_t kCachePeriod = int64_t{1} << 20;

// The batch, and where its tokens' cache entries go. Row r has slot rows - r, so that no index is
// another by chance.
struct PagedBatch {
  HostBatch arrays;
  std::vector<int32_t> block_table;  // [2, slots, blocks_max]
  std::vector<int64_t> padding;      // tokens
  std::vector<int64_t> entry_of;     // by token; padding: -1
  int32_t slots = 0;
  int32_t blocks_max = 0;
  int32_t blocks = 0;
};

PagedBatch paged_batch(const std::vector<AttentionRow>& rows, int32_t block_tokens,
                       bool padding_row);
Tensor place_table(Ops& ops, const PagedBatch& batch);

// A cache in act_dtype [blocks, block_tokens, entry], filled with `numbers` again and again.
Tensor place_cache(Ops& ops, const PagedBatch& batch, int32_t block_tokens, int32_t entry,
                   const std::vector<float>& numbers);
// The values of the same behind block 0, with `written` (a row a token) in its places.
std::vector<double> cache_values(const PagedBatch& batch, int32_t block_tokens, int32_t entry,
                                 const std::vector<float>& numbers, Numerics numerics,
                                 const std::vector<double>& written);

// Cosines and sines of positions up to the batch's longest context, base 10000.
struct Angles {
  HostMatrix cosines, sines;  // [positions, pairs]
};
Angles angles_of(const PagedBatch& batch, int32_t pairs);
RopeTable place_angles(Ops& ops, const Angles& angles);

}  // namespace fathom::testing
