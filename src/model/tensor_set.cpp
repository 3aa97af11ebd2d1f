// Expected tensors, and the check of a checkpoint against them.
#include "model/tensor_set.h"

#include <unordered_set>

#include "base/log.h"

namespace fathom {
namespace {

using Visit = std::function<void(const ExpectedTensor&)>;

constexpr size_t kUnknownNamesLogged = 8;

void visit_attention(const DeepseekConfig& c, const std::string& layer, const Visit& visit) {
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

void visit_mlp(const std::string& at, int64_t hidden, int64_t width, const Visit& visit) {
  visit({at + "gate_proj.weight", {width, hidden}});
  visit({at + "up_proj.weight", {width, hidden}});
  visit({at + "down_proj.weight", {hidden, width}});
}

void visit_layer(const DeepseekConfig& c, int32_t layer, const Visit& visit) {
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

std::string shape_text(const int64_t* shape, size_t rank) {
  std::string text = "[";
  for (size_t i = 0; i < rank; ++i) text += (i > 0 ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

Status check_one(const ExpectedTensor& expected, const WeightSource& source) {
  if (!source.has(expected.name)) {
    return not_found("the checkpoint has no tensor " + expected.name).about(expected.name);
  }
  FATHOM_ASSIGN(const Tensor info, source.info(expected.name));
  const std::vector<int64_t> shape(info.shape.begin(), info.shape.begin() + info.rank);
  if (shape == expected.shape) return Status::ok();
  return data_loss("tensor " + expected.name + " is " + shape_text(shape.data(), shape.size()) +
                   ", config.json asks for " +
                   shape_text(expected.shape.data(), expected.shape.size()))
      .about(expected.name);
}

// Tensors that a checkpoint may hold without being asked: buffers, and the draft layers' own copies
// of the embedding and the head.
bool is_tolerated(const DeepseekConfig& c, const std::string& name) {
  if (name.find("rotary_emb.inv_freq") != std::string::npos || name == "lm_head.weight")
    return true;
  for (int32_t i = 0; i < c.draft_layers; ++i) {
    if (name.starts_with(layer_prefix(c.layers + i))) return true;
  }
  return false;
}

}  // namespace

std::string layer_prefix(int32_t layer) { return "model.layers." + std::to_string(layer) + "."; }

void for_each_expected(const DeepseekConfig& c, bool with_draft, const Visit& visit) {
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
  int64_t count = 0;
  for_each_expected(config, false, [&](const ExpectedTensor& tensor) {
    int64_t n = 1;
    for (const int64_t size : tensor.shape) n *= size;
    count += n;
  });
  return count;
}

Status check_tensor_set(const DeepseekConfig& config, bool with_draft, const WeightSource& source) {
  Status status;
  std::unordered_set<std::string> known;
  for_each_expected(config, with_draft, [&](const ExpectedTensor& expected) {
    if (status.is_ok()) status = check_one(expected, source);
    known.insert(expected.name);
  });
  FATHOM_RETURN_IF_ERROR(status);
  size_t unknown = 0;
  std::string first;
  for (const std::string& name : source.names()) {
    const std::string suffix = "_scale_inv";
    const std::string base =
        name.ends_with(suffix) ? name.substr(0, name.size() - suffix.size()) : name;
    if (known.contains(base) || is_tolerated(config, name)) continue;
    if (unknown++ < kUnknownNamesLogged) first += (first.empty() ? "" : ", ") + name;
  }
  if (unknown > 0) {
    Logger("model").warn("the checkpoint holds tensors that the model does not use",
                         {{"count", unknown}, {"first", first}});
  }
  return Status::ok();
}

}  // namespace fathom
