// Buckets of rows, and padding to them.
#include "engine/capture_shapes.h"

#include <algorithm>

namespace fathom {

std::vector<int32_t> row_buckets(int32_t rows_max) {
  std::vector<int32_t> buckets;
  for (int32_t rows = 1; rows < rows_max; rows *= 2) {
    buckets.push_back(rows);
    if (rows >= 8 && rows + rows / 2 < rows_max) buckets.push_back(rows + rows / 2);
  }
  buckets.push_back(rows_max);
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
  if (shape.decode_rows != shape.rows || shape.rows == 0) return shape;
  const std::vector<int32_t> buckets = row_buckets(limits.rows_max);
  const auto bucket = std::lower_bound(buckets.begin(), buckets.end(), shape.rows);
  FATHOM_CHECK(bucket != buckets.end(), "a step has more rows than were planned for");
  return captured_shape(*bucket, limits, slots);
}

StepShape prefill_warm_shape(int32_t tokens, const SlotLimits& slots) {
  StepShape shape;
  shape.rows = 1;
  shape.tokens = tokens;
  shape.prefill_tokens_max = tokens;
  shape.context_tokens_max = slots.tokens_max;
  shape.sample_rows = 1;
  return shape;
}

}  // namespace fathom
