// MoeBlock: router, this rank's whole experts, and its columns of the shared expert (DeepSeek-V2,
// section 2.2; DeepSeek-V3, section 2.1.2). Owned by the model; immutable after load.
#pragma once

#include <string>

#include "fathom/ops.h"
#include "model/blocks/ends.h"
#include "model/deepseek_config.h"
#include "model/shard_loader.h"

namespace fathom {

class MoeBlock {
 public:
  // `at` is the tensors' prefix ("model.layers.3.mlp.").
  static Result<MoeBlock> load(ShardLoader& loader, const DeepseekConfig& config,
                               const std::string& at);

  Partial run(Ops& ops, const BatchView& batch, const NormInput& x, const Tensor& out) const {
    return ops.norm_moe(batch, x, params_, out);
  }

 private:
  MoeParams params_;
};

}  // namespace fathom
