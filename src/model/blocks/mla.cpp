// Load and run of multi-head latent attention.
#include "model/blocks/mla.h"

namespace fathom {

Result<MlaBlock> MlaBlock::load(ShardLoader& loader, const DeepseekConfig& c, const std::string& at,
                                const RopeTable& rope) {
  MlaBlock block;
  const Span heads = loader.share(c.heads);
  const auto per_head = [&](int64_t rows) { return Span{heads.begin * rows, heads.end * rows}; };
  const WeightSlice kv_a{at + "kv_a_proj_with_mqa.weight", {}, {}};
  block.has_q_lora_ = c.q_lora.has_value();
  if (c.q_lora) {
    FATHOM_ASSIGN(block.down_, loader.linear({{at + "q_a_proj.weight", {}, {}}, kv_a}));
    FATHOM_ASSIGN(block.q_norm_, loader.floats(at + "q_a_layernorm.weight"));
    FATHOM_ASSIGN(block.q_up_,
                  loader.linear({{at + "q_b_proj.weight", per_head(c.head_dims()), {}}}));
  } else {
    FATHOM_ASSIGN(block.down_,
                  loader.linear({{at + "q_proj.weight", per_head(c.head_dims()), {}}, kv_a}));
  }
  FATHOM_ASSIGN(block.out_, loader.linear({{at + "o_proj.weight", {}, per_head(c.value_dims)}}));

  MlaParams& p = block.params_;
  p.heads = static_cast<int32_t>(heads.size());
  p.nope_dims = c.nope_dims;
  p.rope_dims = c.rope_dims;
  p.value_dims = c.value_dims;
  p.kv_lora = c.kv_lora;
  p.softmax_scale = c.softmax_scale;
  p.norm_epsilon = c.norm_epsilon;
  FATHOM_ASSIGN(p.kv_norm, loader.floats(at + "kv_a_layernorm.weight"));
  FATHOM_ASSIGN(p.up,
                loader.kv_b({at + "kv_b_proj.weight", per_head(c.nope_dims + c.value_dims), {}},
                            p.heads, c.nope_dims, c.value_dims));
  p.rope = rope;
  p.out = loader.ops().act_spec(block.out_);
  return block;
}

Partial MlaBlock::run(Ops& ops, const BatchView& batch, const KvView& cache, const NormInput& x,
                      MlaForm form, const Tensor& out) const {
  const Tensor down = ops.linear(ops.normed(x, ops.act_spec(down_)), down_);
  const int64_t latent_columns = params_.kv_lora + params_.rope_dims;
  const int64_t q_columns = down_.out() - latent_columns;
  const Tensor kv_a = down.columns(q_columns, latent_columns);
  Tensor q = down.columns(0, q_columns);
  if (has_q_lora_) {
    q = ops.linear(ops.norm(q, q_norm_, params_.norm_epsilon, ops.act_spec(q_up_)), q_up_);
  }
  const Act attended = ops.mla_attention(batch, cache, q, kv_a, params_, form);
  return ops.linear_partial(attended, out_, out);
}

}  // namespace fathom
