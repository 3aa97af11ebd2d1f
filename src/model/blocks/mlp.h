// MlpBlock: down(silu(gate x) * up x) of a dense layer, this rank's columns of the inner width.
// Owned by the model; immutable after load.
#pragma once

#include <string>

#include "fathom/ops.h"
#include "model/shard_loader.h"

namespace fathom {

// gate and up of [width, hidden] matrices as one weight, and down; a split may cut a scale block,
// which then lies on both ranks.
struct GatedPair {
  Weight gate_up;  // [2 * width here, hidden]
  Weight down;     // [hidden, width here]
};

// `at` is the tensors' prefix ("model.layers.0.mlp."); `share` the part of the inner width.
Result<GatedPair> load_gated_pair(ShardLoader& loader, const std::string& at, Span share);

class MlpBlock {
 public:
  static Result<MlpBlock> load(ShardLoader& loader, const std::string& at, int64_t width);

  Partial run(Ops& ops, const NormInput& x, const Tensor& out) const;

 private:
  GatedPair pair_;
};

}  // namespace fathom
