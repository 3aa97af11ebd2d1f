// Names and shapes of DeepSeek-V2 and V3.
#include "model/deepseek_tensors.h"

namespace fathom {
namespace {

void visit_attention(const DeepseekConfig& c, const std::string& layer,
                     const TensorVisitor& visit) {
  const std::string at = layer + "self_attn.";
  const int64_t q_rows = int64_t{c.heads} * c.head_dims();
  if (c.q_lora) {
    visit({at + "q_a_proj.weight", {*c.q_lora, c.hidden}});
    visit({at + "q_a_layernorm.weight", {*c.q_lora}});
    visit({at + "q_b_proj.weight", {q_rows, *c.q_lora}});
  } else {
    visit({at + "q_proj.weight", {q_rows, c.hidden}});
  }
  visit({at + "kv_a_proj_with_mqa.weight", {c.kv_lora + c.rope_dims, c.hidden}});
  visit({at + "kv_a_layernorm.weight", {c.kv_lora}});
  visit({at + "kv_b_proj.weight", {int64_t{c.heads} * (c.nope_dims + c.value_dims), c.kv_lora}});
  visit({at + "o_proj.weight", {c.hidden, int64_t{c.heads} * c.value_dims}});
}

void visit_layer(const DeepseekConfig& c, int32_t layer, const TensorVisitor& visit) {
  const std::string at = layer_prefix(layer);
  visit({at + "input_layernorm.weight", {c.hidden}});
  visit({at + "post_attention_layernorm.weight", {c.hidden}});
  visit_attention(c, at, visit);
  if (!c.is_moe(layer)) {
    visit_mlp(at + "mlp.", c.hidden, c.intermediate, visit);
    return;
  }
  visit({at + "mlp.gate.weight", {c.experts, c.hidden}});
  if (c.correction_bias) visit({at + "mlp.gate.e_score_correction_bias", {c.experts}});
  for (int32_t e = 0; e < c.experts; ++e) {
    visit_mlp(at + "mlp.experts." + std::to_string(e) + ".", c.hidden, c.moe_intermediate, visit);
  }
  if (c.shared_experts > 0) {
    visit_mlp(at + "mlp.shared_experts.", c.hidden, int64_t{c.shared_experts} * c.moe_intermediate,
              visit);
  }
}

}  // namespace

void for_each_expected(const DeepseekConfig& c, bool with_draft, const TensorVisitor& visit) {
  visit({"model.embed_tokens.weight", {c.vocab, c.hidden}});
  for (int32_t i = 0; i < c.layers; ++i) visit_layer(c, i, visit);
  visit({"model.norm.weight", {c.hidden}});
  if (!c.tied_embedding) visit({"lm_head.weight", {c.vocab, c.hidden}});
  for (int32_t i = 0; with_draft && i < c.draft_layers; ++i) {
    const std::string at = layer_prefix(c.layers + i);
    visit({at + "enorm.weight", {c.hidden}});
    visit({at + "hnorm.weight", {c.hidden}});
    visit({at + "eh_proj.weight", {c.hidden, 2 * int64_t{c.hidden}}});
    visit_layer(c, c.layers + i, visit);
    visit({at + "shared_head.norm.weight", {c.hidden}});
  }
}

int64_t parameter_count(const DeepseekConfig& config) {
  return element_count(
      [&](const TensorVisitor& visit) { for_each_expected(config, false, visit); });
}

Status check_tensor_set(const DeepseekConfig& config, bool with_draft, const WeightSource& source) {
  const auto of_a_draft_layer = [&](const std::string& name) {
    for (int32_t i = 0; i < config.draft_layers; ++i) {
      if (name.starts_with(layer_prefix(config.layers + i))) return true;
    }
    return false;
  };
  return check_tensor_set(
      [&](const TensorVisitor& visit) { for_each_expected(config, with_draft, visit); }, source,
      of_a_draft_layer);
}

}  // namespace fathom
