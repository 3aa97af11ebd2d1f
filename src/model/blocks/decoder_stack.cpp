// Run of a stage's decoder layers.
#include "model/blocks/decoder_stack.h"

namespace fathom {

void DecoderStack::run(Ops& ops, const BatchView& batch, const std::vector<KvView>& caches,
                       MlaForm form, const Stage& stage, bool all_rows, Hidden& hidden) const {
  FATHOM_CHECK(caches.size() >= layers_.size(), "a layer has no cache");
  Comm* tp = stage.groups.tp;
  const int32_t tokens = batch.shape.tokens;
  const Tensor buffer = ops.arena().take(ops.act_dtype(), {tokens, hidden.residual.shape[1]});
  // Of prompts' tokens few are sampled from. At most half of all: what is kept of them then takes
  // no more of the arena than a layer of all.
  const bool few = stage.is_last() && !all_rows && 2 * batch.shape.sample_rows <= tokens;
  const size_t whole = layers_.size() - (few ? 1 : 0);
  for (size_t i = 0; i < whole; ++i) {
    layers_[i].run(ops, batch, caches[i], form, tp, buffer, hidden);
  }
  if (few) layers_[whole].run_last(ops, batch, caches[whole], form, tp, buffer, hidden);
  if (stage.is_last()) return;
  // The next stage gets whole sums.
  ops.reduce_add(hidden.pending, hidden.residual, tp);
  hidden.pending = Partial{};
}

}  // namespace fathom
