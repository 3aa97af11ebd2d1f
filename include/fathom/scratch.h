// What each op of a backend takes from the step arena beside the outputs that it returns: upper
// bounds, from what the host knows of a step. The memory plan adds them up by running the model's
// text on CountOps, before there is a device. Pure and immutable: any thread.
#pragma once

#include <cstdint>

#include "fathom/ops.h"

namespace fathom {

// How a consumer with this weight wants its activation, in every backend.
inline ActSpec act_spec_of(const Weight& weight, Numerics numerics) {
  if (numerics == Numerics::kReference) return ActSpec{};
  if (weight.format != WeightFormat::kFp8Block) return ActSpec{ActFormat::kBF16, false, 0};
  return ActSpec{ActFormat::kFp8Block, weight.ue8m0_activations, weight.first_column_in_block};
}

// Of an activation [rows, columns] in the arena, values and scales.
inline int64_t act_bytes_max(int64_t rows, int64_t columns, const ActSpec& spec) {
  const auto rounded = [](int64_t bytes) { return (bytes + 255) / 256 * 256; };
  switch (spec.format) {
    case ActFormat::kF32: return rounded(rows * columns * 4);
    case ActFormat::kBF16: return rounded(rows * columns * 2);
    case ActFormat::kFp8Block: break;
  }
  const int64_t groups = (spec.first_column_in_block + columns + 127) / 128;
  return rounded(rows * columns) + rounded(rows * groups * 4);
}

// Bytes, at most, in calls of up to the given size: every bound grows with rows, tokens, sequences
// and context, so that the largest step that is admitted bounds all others. Any row of a step may
// be a decode or a prefill row, whatever `decode_rows` says.
class ScratchBounds {
 public:
  virtual ~ScratchBounds() = default;

  // embed, norm, reduce_add_norm, reduce_add and concat, over rows of `columns`.
  virtual int64_t rows(int64_t rows, int64_t columns) const = 0;
  // linear and logits: x [rows, in] times `weight`.
  virtual int64_t product(int64_t rows, const Weight& weight) const = 0;
  virtual int64_t gated(int64_t rows, const Weight& gate_up) const = 0;
  // x [tokens, hidden] in the format `x`.
  virtual int64_t moe(int64_t tokens, int64_t hidden, const ActSpec& x,
                      const MoeParams& params) const = 0;
  // Of the batch only its shape, and how many blocks a row's table holds, are looked at.
  virtual int64_t mla(const BatchView& batch, const KvView& cache,
                      const MlaParams& params) const = 0;
  virtual int64_t gqa(const BatchView& batch, const KvView& cache,
                      const GqaParams& params) const = 0;
  // Of `rows` sequences.
  virtual int64_t sample(int64_t rows, int64_t vocab) const = 0;

  // Not of the arena: what pack_linear adds to the weights.
  virtual int64_t packed(const Weight& weight, bool gated) const {
    (void)weight;
    (void)gated;
    return 0;
  }
};

}  // namespace fathom
