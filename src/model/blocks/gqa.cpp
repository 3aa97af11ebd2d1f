// Load and run of grouped-query attention.
#include "model/blocks/gqa.h"

#include <cmath>

namespace fathom {

Span kv_heads_of(const DenseConfig& config, int32_t rank, int32_t ranks) {
  const int64_t heads = config.kv_heads;
  if (heads % ranks == 0) return {heads * rank / ranks, heads * (rank + 1) / ranks};
  const int64_t one = heads * rank / ranks;
  return {one, one + 1};
}

Result<GqaBlock> GqaBlock::load(ShardLoader& loader, const DenseConfig& c, const std::string& at,
                                const RopeTable& rope) {
  GqaBlock block;
  GqaParams& p = block.params_;
  const Span heads = loader.share(c.heads);
  const Span kv_heads = kv_heads_of(c, loader.tp_rank(), loader.tp_size());
  const auto dims = [&](Span s) { return Span{s.begin * c.head_dims, s.end * c.head_dims}; };
  FATHOM_ASSIGN(block.qkv_, loader.linear({{at + "q_proj.weight", dims(heads), {}},
                                           {at + "k_proj.weight", dims(kv_heads), {}},
                                           {at + "v_proj.weight", dims(kv_heads), {}}}));
  if (c.qkv_bias) {
    FATHOM_ASSIGN(p.bias, loader.floats({{at + "q_proj.bias", dims(heads)},
                                         {at + "k_proj.bias", dims(kv_heads)},
                                         {at + "v_proj.bias", dims(kv_heads)}}));
  }
  if (c.qk_norm) {
    FATHOM_ASSIGN(p.q_norm, loader.floats(at + "q_norm.weight"));
    FATHOM_ASSIGN(p.k_norm, loader.floats(at + "k_norm.weight"));
  }
  FATHOM_ASSIGN(block.out_, loader.linear({{at + "o_proj.weight", {}, dims(heads)}}));
  for (const Weight* weight : {&block.qkv_, &block.out_}) {
    FATHOM_RETURN_IF_ERROR(loader.pack(*weight));
  }
  p.heads = static_cast<int32_t>(heads.size());
  p.kv_heads = static_cast<int32_t>(kv_heads.size());
  p.head_dims = c.head_dims;
  p.softmax_scale = static_cast<float>(1.0 / std::sqrt(double(c.head_dims)));
  p.norm_epsilon = c.norm_epsilon;
  p.rope = rope;
  p.out = loader.ops().act_spec(block.out_);
  return block;
}

Partial GqaBlock::run(Ops& ops, const BatchView& batch, const KvView& cache, const NormInput& x,
                      const Tensor& out) const {
  const Act normed = ops.normed(x, ops.act_spec(qkv_));
  const Act attended = ops.project_gqa(batch, cache, normed, qkv_, params_);
  return ops.linear_partial(attended, out_, out);
}

}  // namespace fathom
