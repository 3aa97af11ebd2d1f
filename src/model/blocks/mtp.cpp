// Load and run of the multi-token-prediction layer.
#include "model/blocks/mtp.h"

#include "model/blocks/ends.h"
#include "model/deepseek_layer.h"
#include "model/tensor_set.h"

namespace fathom {

Result<MtpBlock> MtpBlock::load(ShardLoader& loader, const DeepseekConfig& config,
                                const RopeTable& rope) {
  MtpBlock block;
  const std::string at = layer_prefix(config.layers);
  block.epsilon_ = config.norm_epsilon;
  FATHOM_ASSIGN(block.embedding_norm_, loader.floats(at + "enorm.weight"));
  FATHOM_ASSIGN(block.hidden_norm_, loader.floats(at + "hnorm.weight"));
  FATHOM_ASSIGN(block.join_, loader.linear({{at + "eh_proj.weight", {}, {}}}));
  FATHOM_ASSIGN(block.layer_, load_deepseek_layer(loader, config, config.layers, rope));
  FATHOM_ASSIGN(block.head_norm_, loader.floats(at + "shared_head.norm.weight"));
  return block;
}

Act MtpBlock::run(Ops& ops, const BatchView& batch, const KvView& cache, MlaForm form, Comm* tp,
                  const Tensor& embedded, const Act& normed, const Tensor& last) const {
  const ActSpec plain = plain_spec(ops);
  const Act left = ops.norm(embedded, embedding_norm_, epsilon_, plain);
  const Act right = ops.norm(normed.data, hidden_norm_, epsilon_, plain);
  Hidden hidden;
  hidden.residual = ops.linear(ops.concat(left, right, ops.act_spec(join_)), join_);
  const Tensor buffer =
      ops.arena().take(ops.act_dtype(), {hidden.residual.shape[0], hidden.residual.shape[1]});
  layer_.run(ops, batch, cache, form, tp, buffer, hidden);
  const Act all =
      ops.reduce_add_norm(hidden.pending, hidden.residual, head_norm_, epsilon_, plain, tp);
  return Act{ops.gather_rows(all.data, last), {}, plain};
}

}  // namespace fathom
