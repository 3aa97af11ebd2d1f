// GqaBlock: attention with grouped key and value heads of one layer (models.md 2.4), this rank's
// heads. Owned by the model; immutable after load.
#pragma once

#include <cstdint>
#include <string>

#include "fathom/ops.h"
#include "model/dense_config.h"
#include "model/shard_loader.h"

namespace fathom {

// The key and value heads of one rank: its share, or, where ranks outnumber them, the one that its
// query heads read, held by several ranks.
Span kv_heads_of(const DenseConfig& config, int32_t rank, int32_t ranks);

class GqaBlock {
 public:
  // `at` is the tensors' prefix ("model.layers.3.self_attn."). Heads are split over the group;
  // o_proj's columns follow the query heads.
  static Result<GqaBlock> load(ShardLoader& loader, const DenseConfig& config,
                               const std::string& at, const RopeTable& rope);

  // The layer's output of this rank's heads, written to `out` [T, hidden].
  Partial run(Ops& ops, const BatchView& batch, const KvView& cache, const NormInput& x,
              const Tensor& out) const;

 private:
  Weight qkv_;  // [(heads + 2 * kv_heads) * head_dims, hidden]
  Weight out_;  // [hidden, heads * head_dims]
  GqaParams params_;
};

}  // namespace fathom
