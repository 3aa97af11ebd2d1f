// Buckets of rows, and padding to them.
#include "engine/capture_shapes.h"

#include <algorithm>
#include <bit>

namespace fathom {

int32_t row_bucket(int32_t rows, int32_t rows_max) {
  const auto power = static_cast<int32_t>(std::bit_ceil(static_cast<uint32_t>(rows)));
  const int32_t between = power / 4 * 3;
  return std::min(power > 8 && rows <= between ? between : power, rows_max);
}

std::vector<int32_t> row_buckets(int32_t rows_max) {
  std::vector<int32_t> buckets = {1};
  while (buckets.back() < rows_max) buckets.push_back(row_bucket(buckets.back() + 1, rows_max));
  return buckets;
}

StepShape captured_shape(int32_t rows, const StepLimits& limits, const SlotLimits& slots) {
  const int32_t query = 1 + slots.drafts_max;
  StepShape shape;
  shape.rows = rows;
  shape.decode_rows = rows;
  shape.tokens = std::min(rows * query, limits.tokens_max);
  shape.query_tokens_max = query;
  shape.context_tokens_max = slots.tokens_max;
  shape.sample_rows = std::min(rows * query, limits.sample_rows_max);
  return shape;
}

StepShape padded_shape(const StepShape& shape, const StepLimits& limits, const SlotLimits& slots) {
  if (shape.rows == 0) return shape;
  if (shape.decode_rows != shape.rows) {
    StepShape padded = shape;
    const int32_t groups = (shape.tokens + kTokenGroup - 1) / kTokenGroup;
    padded.tokens = std::max(shape.tokens, std::min(groups * kTokenGroup, limits.tokens_max));
    return padded;
  }
  FATHOM_CHECK(shape.rows <= limits.rows_max, "a step has more rows than were planned for");
  return captured_shape(row_bucket(shape.rows, limits.rows_max), limits, slots);
}

StepShape prefill_warm_shape(int32_t tokens, const SlotLimits& slots) {
  StepShape shape;
  shape.rows = 1;
  shape.tokens = tokens;
  shape.prefill_tokens_max = tokens;
  shape.prefill_context_tokens = slots.tokens_max;  // the forms of long contexts too
  shape.context_tokens_max = slots.tokens_max;
  shape.sample_rows = 1;
  return shape;
}

}  // namespace fathom
