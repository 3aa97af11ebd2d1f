// Tiles of pairs and the number of blocks of threads for grouped decode attention.
#include "ops/cuda/choose_gqa.h"

#include <algorithm>

namespace fathom {
namespace {

// Blocks of gqa_few that find places while the product before them runs; its last blocks leave late
// in bf16, and the product behind starts when all of attention's have.
constexpr int64_t kFewBesideProduct = 80;

int64_t parts(int64_t n, int64_t of) { return (n + of - 1) / of; }

// Granules of a step's longest possible work; they are counted in 32 bits.
int64_t granules(const GqaProblem& p, int32_t tiles) {
  constexpr int64_t kPerBlock = kernels::kGqaBlockTokens / kernels::kGqaGranuleTokens;
  return int64_t{p.rows} * p.kv_heads * tiles * p.blocks_max * kPerBlock;
}

}  // namespace

kernels::GqaDecodePlan choose_gqa_decode(const GqaProblem& p) {
  kernels::GqaDecodePlan plan;
  const bool fits = p.hopper && p.bf16 && (p.head_dims == 64 || p.head_dims == 128) &&
                    p.block_tokens == kernels::kGqaBlockTokens && p.rows > 0 &&
                    p.rows <= kernels::kGqaRowsMax && p.query_tokens_max > 0 && p.kv_heads > 0 &&
                    p.heads % p.kv_heads == 0 && p.blocks_max > 0;
  if (!fits) return plan;
  const int32_t pairs = p.heads / p.kv_heads * p.query_tokens_max;
  const int32_t pair_tile = pairs <= 8 ? 8 : 16;
  const auto tiles = static_cast<int32_t>(parts(pairs, pair_tile));
  if (granules(p, tiles) > INT32_MAX) return plan;
  plan.pair_tile = pair_tile;
  plan.tiles = tiles;
  plan.pairs = std::min(pairs, pair_tile);
  const int64_t chunks = parts(granules(p, tiles), kernels::kGqaWarps);
  plan.blocks = static_cast<int32_t>(std::min<int64_t>(p.sms * (pair_tile == 8 ? 2 : 1), chunks));
  // Where every row's key head can have several blocks at once, the chain of latencies is what
  // counts.
  const int64_t few_heads = int64_t{p.rows} * p.kv_heads;
  int64_t each = std::min<int64_t>(p.sms / few_heads, kernels::kGqaFewBlocksMax);
  if (p.bf16_products && each > kernels::kGqaFewBlocksMin) {
    each = std::clamp<int64_t>(kFewBesideProduct / few_heads, kernels::kGqaFewBlocksMin, each);
  }
  plan.few = p.alone && p.query_tokens_max == 1 && pairs <= kernels::kGqaFewBlocksMin &&
             each >= kernels::kGqaFewBlocksMin && few_heads <= kernels::kGqaFewHeadsMax;
  if (plan.few) plan.blocks = static_cast<int32_t>(few_heads * each);
  plan.segments_max = static_cast<int32_t>(
      parts(int64_t{p.blocks_max} * kernels::kGqaBlockTokens, kernels::kGqaSegmentTokens));
  return plan;
}

}  // namespace fathom
