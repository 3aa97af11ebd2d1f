// One call of MLA attention as its row classes see it: the tokens' cache entries are written, and
// each class (decode and verify rows first, prefill rows after) fills its tokens' part of `out`.
#pragma once

#include "fathom/ops.h"
#include "kernels/attention.h"

namespace fathom {

// A view; the rank's thread makes it and passes it down.
struct MlaCall {
  const BatchView& batch;
  const KvView& cache;
  const Tensor& q;     // [tokens, heads * (nope + rope)], before rotation
  const Tensor& kv_a;  // [tokens, kv_lora + rope]
  const MlaParams& p;
  kernels::MlaShape shape;
  kernels::AttentionBatch tokens;
  // [tokens, heads * value_dims]. A class writes the tokens whose row (tokens.token_row) is its
  // own, zeros for those that are not valid, and no other.
  Tensor out;
};

}  // namespace fathom
