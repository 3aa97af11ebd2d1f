// Load and run of a decoder layer.
#include "model/blocks/decoder_layer.h"

#include "model/tensor_set.h"

namespace fathom {

Result<DecoderLayer> DecoderLayer::load(ShardLoader& loader, const DeepseekConfig& config,
                                        int32_t number, const RopeTable& rope) {
  DecoderLayer layer;
  const std::string at = layer_prefix(number);
  layer.epsilon_ = config.norm_epsilon;
  FATHOM_ASSIGN(layer.input_norm_, loader.floats(at + "input_layernorm.weight"));
  FATHOM_ASSIGN(layer.post_norm_, loader.floats(at + "post_attention_layernorm.weight"));
  FATHOM_ASSIGN(layer.attention_, MlaBlock::load(loader, config, at + "self_attn.", rope));
  if (config.is_moe(number)) {
    FATHOM_ASSIGN(layer.mlp_, MoeBlock::load(loader, config, at + "mlp."));
  } else {
    FATHOM_ASSIGN(layer.mlp_, MlpBlock::load(loader, at + "mlp.", config.intermediate));
  }
  return layer;
}

void DecoderLayer::run(Ops& ops, const BatchView& batch, const KvView& cache, MlaForm form,
                       Comm* tp, const Tensor& buffer, Hidden& hidden) const {
  ArenaScope scope(ops.arena());
  const Act x = ops.reduce_add_norm(hidden.pending, hidden.residual, input_norm_, epsilon_,
                                    attention_.input(ops), tp);
  const Partial attended = attention_.run(ops, batch, cache, x, form, buffer);
  if (const auto* dense = std::get_if<MlpBlock>(&mlp_)) {
    const Act y =
        ops.reduce_add_norm(attended, hidden.residual, post_norm_, epsilon_, dense->input(ops), tp);
    hidden.pending = dense->run(ops, y, buffer);
    return;
  }
  const MoeBlock& experts = std::get<MoeBlock>(mlp_);
  const Act y =
      ops.reduce_add_norm(attended, hidden.residual, post_norm_, epsilon_, experts.input(ops), tp);
  hidden.pending = experts.run(ops, batch, y, buffer);
}

}  // namespace fathom
