// ModelEnds: embedding, final norm and vocabulary head, sharded by rows of the vocabulary, on the
// pipeline stages that use them. Owned by the model; immutable after load.
#pragma once

#include <cstdint>

#include "fathom/model.h"
#include "model/shard_loader.h"

namespace fathom {

struct EndsConfig {
  int64_t vocab = 0;
  bool tied = false;  // the head is the embedding
  float norm_epsilon = 1e-6F;
  bool with_embedding = false;  // this stage embeds: the first does, and one that drafts
  bool with_head = false;       // this stage is the last
};

class ModelEnds {
 public:
  static Result<ModelEnds> load(ShardLoader& loader, const EndsConfig& config);

  // act_dtype [T, hidden].
  Tensor embed(Ops& ops, const Tensor& ids, Comm* tp) const;
  // Adds the pending sum; act_dtype [T, hidden].
  Act final_norm(Ops& ops, const Hidden& hidden, Comm* tp) const;
  // float32 [rows, vocab].
  Tensor logits(Ops& ops, const Act& rows, Comm* tp) const;
  // The same of the batch's sample tokens; `normed` has all tokens, or those alone.
  Tensor head(Ops& ops, const BatchView& batch, const Act& normed, Comm* tp) const;

 private:
  float epsilon_ = 0.0F;
  int32_t first_row_ = 0;
  Tensor embedding_;  // [vocabulary rows here, hidden]
  Tensor norm_;       // [hidden]
  Weight head_;       // [vocabulary rows here, hidden]
};

// An activation that is not quantized.
ActSpec plain_spec(const Ops& ops);

}  // namespace fathom
