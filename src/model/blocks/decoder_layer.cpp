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

Partial DecoderLayer::feed_forward(Ops& ops, const BatchView& batch, const Partial& attended,
                                   const Tensor& residual, Comm* tp, const Tensor& buffer) const {
  const NormInput x{attended, residual, post_norm_, epsilon_, tp};
  if (const auto* dense = std::get_if<MlpBlock>(&feed_forward_)) return dense->run(ops, x, buffer);
  return std::get<MoeBlock>(feed_forward_).run(ops, batch, x, buffer);
}

void DecoderLayer::run(Ops& ops, const BatchView& batch, const KvView& cache, MlaForm form,
                       Comm* tp, const Tensor& buffer, Hidden& hidden) const {
  ArenaScope scope(ops.arena());
  const NormInput x{hidden.pending, hidden.residual, input_norm_, epsilon_, tp};
  const Partial attended = attend(ops, batch, cache, x, form, buffer);
  hidden.pending = feed_forward(ops, batch, attended, hidden.residual, tp, buffer);
}

void DecoderLayer::run_last(Ops& ops, const BatchView& batch, const KvView& cache, MlaForm form,
                            Comm* tp, const Tensor& buffer, Hidden& hidden) const {
  Partial attended;
  {
    ArenaScope scope(ops.arena());
    const NormInput x{hidden.pending, hidden.residual, input_norm_, epsilon_, tp};
    attended = attend(ops, batch, cache, x, form, buffer);
  }
  hidden.pending = Partial{};
  const int32_t count = batch.shape.sample_rows;
  if (count == 0) return;
  // Taken outside of a scope: the caller reads them.
  const Tensor wanted = batch.sample_tokens.rows(0, count);
  hidden.residual = ops.gather_rows(hidden.residual, wanted);
  const Tensor sums = ops.gather_rows(attended.data, wanted);
  ArenaScope scope(ops.arena());
  BatchView few = batch;  // as far as experts look at it
  few.shape.tokens = count;
  if (std::holds_alternative<MoeBlock>(feed_forward_)) {
    const Tensor valid = Tensor::of(batch.token_valid.data, DType::kU8, {batch.shape.tokens, 1});
    few.token_valid = ops.gather_rows(valid, wanted);
  }
  hidden.pending = feed_forward(ops, few, {sums}, hidden.residual, tp, buffer.rows(0, count));
}

}  // namespace fathom
