// Names and shapes of Llama, Qwen2 and Qwen3.
#include "model/dense_tensors.h"

#include <utility>

namespace fathom {
namespace {

void visit_attention(const DenseConfig& c, const std::string& at, const TensorVisitor& visit) {
  const std::pair<const char*, int32_t> parts[] = {
      {"q_proj", c.heads}, {"k_proj", c.kv_heads}, {"v_proj", c.kv_heads}};
  for (const auto& [name, heads] : parts) {
    const int64_t rows = int64_t{heads} * c.head_dims;
    visit({at + name + ".weight", {rows, c.hidden}});
    if (c.qkv_bias) visit({at + name + ".bias", {rows}});
  }
  if (c.qk_norm) {
    visit({at + "q_norm.weight", {c.head_dims}});
    visit({at + "k_norm.weight", {c.head_dims}});
  }
  visit({at + "o_proj.weight", {c.hidden, int64_t{c.heads} * c.head_dims}});
}

}  // namespace

void for_each_expected(const DenseConfig& c, const TensorVisitor& visit) {
  visit({"model.embed_tokens.weight", {c.vocab, c.hidden}});
  for (int32_t i = 0; i < c.layers; ++i) {
    const std::string at = layer_prefix(i);
    visit({at + "input_layernorm.weight", {c.hidden}});
    visit({at + "post_attention_layernorm.weight", {c.hidden}});
    visit_attention(c, at + "self_attn.", visit);
    visit_mlp(at + "mlp.", c.hidden, c.intermediate, visit);
  }
  visit({"model.norm.weight", {c.hidden}});
  if (!c.tied_embedding) visit({"lm_head.weight", {c.vocab, c.hidden}});
}

}  // namespace fathom
