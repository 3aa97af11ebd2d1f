// Load and run of both ends of a model.
#include "model/blocks/ends.h"

namespace fathom {

ActSpec plain_spec(const Ops& ops) {
  return ActSpec{ops.act_dtype() == DType::kF32 ? ActFormat::kF32 : ActFormat::kBF16, false, 0};
}

Result<ModelEnds> ModelEnds::load(ShardLoader& loader, const EndsConfig& config) {
  ModelEnds ends;
  const Span rows = loader.share(config.vocab);
  const std::string embedding = "model.embed_tokens.weight";
  ends.epsilon_ = config.norm_epsilon;
  ends.first_row_ = static_cast<int32_t>(rows.begin);
  if (config.with_embedding) {
    FATHOM_ASSIGN(ends.embedding_, loader.table({embedding, rows, {}}));
  }
  if (!config.with_head) return ends;
  FATHOM_ASSIGN(ends.norm_, loader.floats("model.norm.weight"));
  const std::string head = config.tied ? embedding : "lm_head.weight";
  FATHOM_ASSIGN(ends.head_, loader.linear({{head, rows, {}}}));
  FATHOM_RETURN_IF_ERROR(loader.pack(ends.head_));
  return ends;
}

Tensor ModelEnds::embed(Ops& ops, const Tensor& ids, Comm* tp) const {
  return ops.embed(ids, embedding_, first_row_, tp);
}

Act ModelEnds::final_norm(Ops& ops, const Hidden& hidden, Comm* tp) const {
  return ops.reduce_add_norm(hidden.pending, hidden.residual, norm_, epsilon_, plain_spec(ops), tp);
}

Tensor ModelEnds::logits(Ops& ops, const Act& rows, Comm* tp) const {
  return ops.logits(rows, head_, tp);
}

Tensor ModelEnds::head(Ops& ops, const BatchView& batch, const Act& normed, Comm* tp) const {
  if (normed.data.shape[0] < batch.shape.tokens) return logits(ops, normed, tp);
  const Tensor wanted = batch.sample_tokens.rows(0, batch.shape.sample_rows);
  return logits(ops, Act{ops.gather_rows(normed.data, wanted), {}, normed.spec}, tp);
}

}  // namespace fathom
