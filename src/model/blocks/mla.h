// MlaBlock: multi-head latent attention of one layer (DeepSeek-V2, section 2.1; models.md 2.3),
// this rank's heads. Owned by the model; immutable after load.
#pragma once

#include <string>

#include "fathom/ops.h"
#include "model/deepseek_config.h"
#include "model/shard_loader.h"

namespace fathom {

class MlaBlock {
 public:
  // `at` is the tensors' prefix ("model.layers.3.self_attn."). Heads are split over the group;
  // q_a and kv_a are whole on every rank; o_proj's columns follow the heads.
  static Result<MlaBlock> load(ShardLoader& loader, const DeepseekConfig& config,
                               const std::string& at, const RopeTable& rope);

  // The layer's output of this rank's heads, written to `out` [T, hidden].
  Partial run(Ops& ops, const BatchView& batch, const KvView& cache, const NormInput& x,
              MlaForm form, const Tensor& out) const;

 private:
  bool has_q_lora_ = false;
  // What reads x, in one product: [q_lora + kv_lora + rope, hidden]; without q_lora
  // [heads * (nope + rope) + kv_lora + rope, hidden].
  Weight down_;
  Tensor q_norm_;  // [q_lora]
  Weight q_up_;    // [heads * (nope + rope), q_lora], of models with q_lora
  Weight out_;     // [hidden, heads * value]
  MlaParams params_;
};

}  // namespace fathom
