// MtpBlock: the multi-token-prediction layer stored after the last layer (DeepSeek-V3, section 2.2;
// models.md 2.11). It shares the main model's embedding and head. Owned by the model; immutable
// after load.
#pragma once

#include "model/blocks/decoder_layer.h"

namespace fathom {

class MtpBlock {
 public:
  static Result<MtpBlock> load(ShardLoader& loader, const DeepseekConfig& config,
                               const RopeTable& rope);

  // embedded: act_dtype [T, hidden], of the token after each token; normed: the main model's hidden
  // state after its final norm. Returns the normed state of row `last` of each row: [rows, hidden].
  Act run(Ops& ops, const BatchView& batch, const KvView& cache, MlaForm form, Comm* tp,
          const Tensor& embedded, const Act& normed, const Tensor& last) const;

 private:
  float epsilon_ = 0.0F;
  Tensor embedding_norm_;
  Tensor hidden_norm_;
  Weight join_;  // eh_proj [hidden, 2 * hidden]: embedding first
  DecoderLayer layer_;
  Tensor head_norm_;
};

}  // namespace fathom
