// Latent attention, and a dense MLP or a mixture of experts.
#include "model/deepseek_layer.h"

#include <utility>

#include "model/tensor_set.h"

namespace fathom {

Result<DecoderLayer> load_deepseek_layer(ShardLoader& loader, const DeepseekConfig& config,
                                         int32_t number, const RopeTable& rope) {
  const std::string at = layer_prefix(number);
  FATHOM_ASSIGN(MlaBlock attention, MlaBlock::load(loader, config, at + "self_attn.", rope));
  FeedForwardBlock feed_forward;
  if (config.is_moe(number)) {
    FATHOM_ASSIGN(feed_forward, MoeBlock::load(loader, config, at + "mlp."));
  } else {
    FATHOM_ASSIGN(feed_forward, MlpBlock::load(loader, at + "mlp.", config.intermediate));
  }
  return DecoderLayer::load(loader, at, config.norm_epsilon, std::move(attention),
                            std::move(feed_forward));
}

}  // namespace fathom
