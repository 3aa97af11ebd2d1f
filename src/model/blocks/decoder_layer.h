// DecoderLayer: attention and MLP with their norms, around the residual stream. Owned by the model;
// immutable after load.
#pragma once

#include <variant>

#include "fathom/model.h"
#include "model/blocks/mla.h"
#include "model/blocks/mlp.h"
#include "model/blocks/moe.h"

namespace fathom {

class DecoderLayer {
 public:
  static Result<DecoderLayer> load(ShardLoader& loader, const DeepseekConfig& config, int32_t layer,
                                   const RopeTable& rope);

  // Adds the pending partial sum, runs the layer, and leaves the MLP's output pending. `buffer`
  // [T, hidden] holds the partial sums, one after the other.
  void run(Ops& ops, const BatchView& batch, const KvView& cache, MlaForm form, Comm* tp,
           const Tensor& buffer, Hidden& hidden) const;

 private:
  float epsilon_ = 0.0F;
  Tensor input_norm_;
  Tensor post_norm_;
  MlaBlock attention_;
  std::variant<MlpBlock, MoeBlock> mlp_;
};

}  // namespace fathom
