// DecoderLayer: attention and MLP with their norms, around the residual stream. Owned by the model;
// immutable after load.
#pragma once

#include <string>
#include <variant>

#include "fathom/model.h"
#include "model/blocks/gqa.h"
#include "model/blocks/mla.h"
#include "model/blocks/mlp.h"
#include "model/blocks/moe.h"

namespace fathom {

using AttentionBlock = std::variant<MlaBlock, GqaBlock>;
using FeedForwardBlock = std::variant<MlpBlock, MoeBlock>;

class DecoderLayer {
 public:
  // Norms of the layer at `at` ("model.layers.3.") around blocks that are loaded.
  static Result<DecoderLayer> load(ShardLoader& loader, const std::string& at, float norm_epsilon,
                                   AttentionBlock attention, FeedForwardBlock feed_forward);

  // Adds the pending partial sum, runs the layer, and leaves the MLP's output pending. `buffer`
  // [T, hidden] holds the partial sums, one after the other. `form` is for latent attention.
  void run(Ops& ops, const BatchView& batch, const KvView& cache, MlaForm form, Comm* tp,
           const Tensor& buffer, Hidden& hidden) const;
  // The model's last layer where only the tokens that are sampled from are read: all attend, and
  // the MLP has those. Leaves sample_rows rows in `hidden`; of none, what nobody may read.
  void run_last(Ops& ops, const BatchView& batch, const KvView& cache, MlaForm form, Comm* tp,
                const Tensor& buffer, Hidden& hidden) const;

 private:
  Partial attend(Ops& ops, const BatchView& batch, const KvView& cache, const NormInput& x,
                 MlaForm form, const Tensor& buffer) const;
  // The norm and the MLP of as many tokens as `batch` has; their sums are left in `buffer`.
  Partial feed_forward(Ops& ops, const BatchView& batch, const Partial& attended,
                       const Tensor& residual, Comm* tp, const Tensor& buffer) const;

  float epsilon_ = 0.0F;
  Tensor input_norm_;
  Tensor post_norm_;
  AttentionBlock attention_;
  FeedForwardBlock feed_forward_;
};

}  // namespace fathom
