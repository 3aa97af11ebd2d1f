// The running softmax of an attention tile.
#include "ops/cpu/attention_tile.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "ops/cpu/activation.h"
#include "ops/cpu/simd.h"

namespace fathom {

void AttentionTile::place(float* memory) {
  place(memory, memory + rows * key_dims, memory + rows * (key_dims + value_dims));
}

void AttentionTile::place(float* queries_at, float* sums_at, float* state) {
  queries = queries_at;
  sums = sums_at;
  scores = state;
  largest = scores + rows * keys_max;
  total = largest + rows;
  position = reinterpret_cast<int32_t*>(total + rows);
  std::fill_n(sums, rows * value_dims, 0.0F);
  std::fill_n(largest, rows, -std::numeric_limits<float>::infinity());
  std::fill_n(total, rows, 0.0F);
}

void AttentionTile::add(const Matrix& keys, const Matrix& values, int64_t first) {
  const Rows q{queries, key_dims, rows, key_dims};
  products.dot_rows(q, keys, scale, scores, keys_max);
  for (int64_t r = 0; r < rows; ++r) {
    float* row = scores + r * keys_max;
    const int64_t visible = std::clamp<int64_t>(position[r] - first + 1, 0, keys.rows);
    std::fill(row + visible, row + keys.rows, 0.0F);
    if (visible > 0) weigh(r, visible);
  }
  const Rows weights{scores, keys_max, rows, keys.rows};
  products.add_product(weights, values, sums, value_dims);
}

void AttentionTile::weigh(int64_t r, int64_t visible) {
  constexpr float kLog2E = 1.4426950408889634F;
  constexpr float kLn2 = 0.6931471805599453F;
  float* row = scores + r * keys_max;
  const float most = simd::max_of(row, visible);
  const float peak = std::max(largest[r], round_weights ? std::ceil(most * kLog2E) : most);
  const float fade = round_weights ? std::exp2(largest[r] - peak) : std::exp(largest[r] - peak);
  const float shift = round_weights ? peak * kLn2 : peak;
  largest[r] = peak;
  total[r] = total[r] * fade + simd::exp_sum(row, row, visible, shift, 1.0F);
  if (round_weights) round_floats(row, visible, DType::kBF16);
  if (fade == 1.0F) return;
  simd::scale(fade, value_dims, sums + r * value_dims);
}

void AttentionTile::finish() {
  for (int64_t r = 0; r < rows; ++r) {
    const float factor = total[r] > 0.0F ? 1.0F / total[r] : 0.0F;
    simd::scale(factor, value_dims, sums + r * value_dims);
  }
}

}  // namespace fathom
