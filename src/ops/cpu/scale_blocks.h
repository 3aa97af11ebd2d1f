// The columns of a product, cut where its scales change. Pure.
#pragma once

#include <algorithm>
#include <cstdint>

#include "fathom/weight.h"

namespace fathom {

struct ScaleBlocks {
  int64_t columns = 0;
  int64_t width = 0;   // of a whole block
  int64_t offset = 0;  // columns of the first block that lie before column 0

  int64_t end(int64_t block) const { return std::min(columns, (block + 1) * width - offset); }
  int64_t count() const { return (columns + offset + width - 1) / width; }
};

inline ScaleBlocks scale_blocks(const Weight& weight) {
  if (weight.format != WeightFormat::kFp8Block) return {weight.in(), weight.in(), 0};
  return {weight.in(), weight.block_columns, weight.first_column_in_block};
}

// The scales of one output, one per block; `one` where the weight has none.
inline const float* scales_of(const Weight& weight, int64_t output, const float* one) {
  if (weight.format != WeightFormat::kFp8Block) return one;
  const int32_t row = weight.scale_rows.as<int32_t>()[output];
  return weight.scales.as<float>() + row * weight.scales.stride[0];
}

}  // namespace fathom
