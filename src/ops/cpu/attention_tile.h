// AttentionTile: a few query rows against one stretch of keys after another, with a running
// softmax. Values of one task on one thread; memory is the caller's.
#pragma once

#include <cstdint>

#include "ops/cpu/matmul.h"

namespace fathom {

// The running state of `rows` queries. The stretches are the blocks of the cache, at fixed absolute
// positions, so a row's arithmetic depends on its own position alone.
struct AttentionTile {
  explicit AttentionTile(const Products& with) : products(with) {}

  const Products& products;
  int64_t rows = 0;
  int64_t key_dims = 0;
  int64_t value_dims = 0;
  int64_t keys_max = 0;  // keys in one stretch
  float scale = 0.0F;    // of the scores
  // Weights as tensor cores take them: bfloat16, relative to a whole power of two, so that their
  // bits do not depend on where the running peak stood. Their sum takes them before that rounding.
  bool round_weights = false;
  float* queries = nullptr;     // [rows, key_dims]
  float* sums = nullptr;        // [rows, value_dims], not yet divided
  float* scores = nullptr;      // [rows, keys_max]
  float* largest = nullptr;     // [rows] that weights are relative to: of scores, or a power of two
  float* total = nullptr;       // [rows]
  int32_t* position = nullptr;  // [rows] keys up to and including this position are visible

  static int64_t floats(int64_t rows, int64_t key_dims, int64_t value_dims, int64_t keys_max) {
    return rows * (key_dims + value_dims) + state_floats(rows, keys_max);
  }
  // Of the scores and the softmax's state alone.
  static int64_t state_floats(int64_t rows, int64_t keys_max) { return rows * (keys_max + 3); }
  // Lays the arrays out in `memory` of `floats` floats and clears the state.
  void place(float* memory);
  // The same with queries and sums elsewhere, in `state` of `state_floats` floats.
  void place(float* queries_at, float* sums_at, float* state);
  // Keys at positions [first, first + keys.rows).
  void add(const Matrix& keys, const Matrix& values, int64_t first);
  // Rows' weights in place of their scores; their sums and the rows' sums so far go to the new
  // peak.
  void weigh(int64_t row, int64_t visible);
  // Divides by the softmax's denominator.
  void finish();
};

}  // namespace fathom
