// Chunks and their prices.
#include "sched/chunk_price.h"

#include <algorithm>

namespace fathom {

PromptWork ChunkShape::work(int32_t tokens, int32_t context) const {
  const double dear = std::min(tokens, dear_tokens);
  const double weighted = dear + later_share * (tokens - dear);
  return {static_cast<double>(tokens), weighted * (context + 0.5 * tokens)};
}

int32_t tokens_within(double us, const ChunkPrices& prices, const ChunkShape& shape,
                      int32_t context, int32_t tokens_max) {
  int32_t within = 0;
  for (int32_t beyond = std::max(tokens_max, 0) + 1; beyond - within > 1;) {
    const int32_t middle = within + (beyond - within) / 2;
    (prices.us(shape.work(middle, context)) <= us ? within : beyond) = middle;
  }
  return within;
}

}  // namespace fathom
