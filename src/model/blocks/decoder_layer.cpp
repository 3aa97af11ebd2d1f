// Load and run of a decoder layer.
#include "model/blocks/decoder_layer.h"

#include <utility>

namespace fathom {

Result<DecoderLayer> DecoderLayer::load(ShardLoader& loader, const std::string& at,
                                        float norm_epsilon, AttentionBlock attention,
                                        FeedForwardBlock feed_forward) {
  DecoderLayer layer;
  layer.epsilon_ = norm_epsilon;
  FATHOM_ASSIGN(layer.input_norm_, loader.floats(at + "input_layernorm.weight"));
  FATHOM_ASSIGN(layer.post_norm_, loader.floats(at + "post_attention_layernorm.weight"));
  layer.attention_ = std::move(attention);
  layer.feed_forward_ = std::move(feed_forward);
  return layer;
}

Partial DecoderLayer::attend(Ops& ops, const BatchView& batch, const KvView& cache,
                             const NormInput& x, MlaForm form, const Tensor& buffer) const {
  if (const auto* grouped = std::get_if<GqaBlock>(&attention_)) {
    return grouped->run(ops, batch, cache, x, buffer);
  }
  return std::get<MlaBlock>(attention_).run(ops, batch, cache, x, form, buffer);
}

void DecoderLayer::run(Ops& ops, const BatchView& batch, const KvView& cache, MlaForm form,
                       Comm* tp, const Tensor& buffer, Hidden& hidden) const {
  ArenaScope scope(ops.arena());
  const NormInput x{hidden.pending, hidden.residual, input_norm_, epsilon_, tp};
  const Partial attended = attend(ops, batch, cache, x, form, buffer);
  const NormInput y{attended, hidden.residual, post_norm_, epsilon_, tp};
  if (const auto* dense = std::get_if<MlpBlock>(&feed_forward_)) {
    hidden.pending = dense->run(ops, y, buffer);
  } else {
    hidden.pending = std::get<MoeBlock>(feed_forward_).run(ops, batch, y, buffer);
  }
}

void DecoderLayer::run_last(Ops& ops, const BatchView& batch, const KvView& cache, Comm* tp,
                            const Tensor& wanted, const Tensor& buffer, Hidden& hidden) const {
  Partial attended;
  {
    ArenaScope scope(ops.arena());
    const NormInput x{hidden.pending, hidden.residual, input_norm_, epsilon_, tp};
    attended = attend(ops, batch, cache, x, MlaForm::kChosen, buffer);
  }
  // Taken outside of a scope: the caller reads them.
  hidden.residual = ops.gather_rows(hidden.residual, wanted);
  const Tensor sums = ops.gather_rows(attended.data, wanted);
  ArenaScope scope(ops.arena());
  const NormInput y{{sums}, hidden.residual, post_norm_, epsilon_, tp};
  hidden.pending =
      std::get<MlpBlock>(feed_forward_).run(ops, y, buffer.rows(0, wanted.shape[0]));
}

}  // namespace fathom
