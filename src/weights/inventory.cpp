// Names and shapes, layer by layer.
#include "weights/inventory.h"

#include <string>
#include <utility>

namespace fathom {
namespace {

class Lister {
 public:
  explicit Lister(const ArchConfig& config) : c_(config) {}

  std::vector<InventoryTensor> list() {
    add("model.embed_tokens.weight", {c_.vocab, c_.hidden}, TensorRole::kEmbedding);
    for (layer_ = 0; layer_ < c_.layers + c_.draft_layers; ++layer_) {
      draft_ = layer_ >= c_.layers;
      add_layer();
    }
    layer_ = -1;
    draft_ = false;
    add("model.norm.weight", {c_.hidden}, TensorRole::kNorm);
    if (!c_.tied_embeddings) add("lm_head.weight", {c_.vocab, c_.hidden}, TensorRole::kHead);
    return std::move(tensors_);
  }

 private:
  void add(const std::string& name, std::vector<int64_t> shape, TensorRole role,
           DType dtype = DType::kBF16) {
    InventoryTensor t;
    // What a checkpoint keeps in float32 always, or as the rest of it.
    t.spec = {name, dtype == DType::kF32 ? dtype : c_.dtype, std::move(shape)};
    t.role = role;
    t.layer = layer_;
    t.draft = draft_;
    tensors_.push_back(std::move(t));
  }

  // A linear layer's matrix: quantized with its scales, or plain.
  void add_linear(const std::string& module, int64_t out, int64_t in, TensorRole role) {
    const std::string name = module + ".weight";
    add(name, {out, in}, role);
    if (!c_.quantization.fp8_block) return;
    tensors_.back().spec.dtype = DType::kF8E4M3;
    const int64_t rows = c_.quantization.block_rows;
    const int64_t columns = c_.quantization.block_columns;
    add(name + "_scale_inv", {(out + rows - 1) / rows, (in + columns - 1) / columns},
        TensorRole::kScale, DType::kF32);
  }

  void add_mlp(const std::string& module, int64_t width, bool routed) {
    const TensorRole up = routed ? TensorRole::kExpert : TensorRole::kLinear;
    const TensorRole down = routed ? TensorRole::kExpertResidual : TensorRole::kResidualLinear;
    add_linear(module + ".gate_proj", width, c_.hidden, up);
    add_linear(module + ".up_proj", width, c_.hidden, up);
    add_linear(module + ".down_proj", c_.hidden, width, down);
  }

  void add_layer() {
    const std::string prefix = "model.layers." + std::to_string(layer_);
    if (draft_) {
      add(prefix + ".embed_tokens.weight", {c_.vocab, c_.hidden}, TensorRole::kEmbedding);
      tensors_.back().copy = true;
      add(prefix + ".enorm.weight", {c_.hidden}, TensorRole::kNorm);
      add(prefix + ".hnorm.weight", {c_.hidden}, TensorRole::kNorm);
      add(prefix + ".eh_proj.weight", {c_.hidden, 2 * c_.hidden}, TensorRole::kLinear);
    }
    add(prefix + ".input_layernorm.weight", {c_.hidden}, TensorRole::kNorm);
    if (c_.kv_lora > 0) {
      add_latent_attention(prefix + ".self_attn");
    } else {
      add_attention(prefix + ".self_attn");
    }
    add(prefix + ".post_attention_layernorm.weight", {c_.hidden}, TensorRole::kNorm);
    if (draft_ ? c_.experts > 0 : c_.is_moe_layer(layer_)) {
      add_moe(prefix + ".mlp");
    } else {
      add_mlp(prefix + ".mlp", c_.intermediate, false);
    }
    if (draft_) {
      add(prefix + ".shared_head.norm.weight", {c_.hidden}, TensorRole::kNorm);
      add(prefix + ".shared_head.head.weight", {c_.vocab, c_.hidden}, TensorRole::kHead);
      tensors_.back().copy = true;
    }
  }

  void add_attention(const std::string& module) {
    const std::pair<const char*, int64_t> parts[] = {
        {".q_proj", c_.heads}, {".k_proj", c_.kv_heads}, {".v_proj", c_.kv_heads}};
    for (const auto& [name, heads] : parts) {
      add_linear(module + name, heads * c_.head_dim, c_.hidden, TensorRole::kLinear);
      if (c_.qkv_bias) {
        add(module + name + ".bias", {heads * c_.head_dim}, TensorRole::kBias);
      }
    }
    if (c_.qk_norm) {
      add(module + ".q_norm.weight", {c_.head_dim}, TensorRole::kNorm);
      add(module + ".k_norm.weight", {c_.head_dim}, TensorRole::kNorm);
    }
    add_linear(module + ".o_proj", c_.hidden, c_.heads * c_.head_dim, TensorRole::kResidualLinear);
  }

  void add_latent_attention(const std::string& module) {
    const int64_t query = c_.heads * (c_.nope_dims + c_.rope_dims);
    if (c_.q_lora) {
      add_linear(module + ".q_a_proj", *c_.q_lora, c_.hidden, TensorRole::kLinear);
      add(module + ".q_a_layernorm.weight", {*c_.q_lora}, TensorRole::kNorm);
      add_linear(module + ".q_b_proj", query, *c_.q_lora, TensorRole::kLinear);
    } else {
      add_linear(module + ".q_proj", query, c_.hidden, TensorRole::kLinear);
    }
    add_linear(module + ".kv_a_proj_with_mqa", c_.kv_lora + c_.rope_dims, c_.hidden,
               TensorRole::kLinear);
    add(module + ".kv_a_layernorm.weight", {c_.kv_lora}, TensorRole::kNorm);
    add_linear(module + ".kv_b_proj", c_.heads * (c_.nope_dims + c_.value_dims), c_.kv_lora,
               TensorRole::kLinear);
    add_linear(module + ".o_proj", c_.hidden, c_.heads * c_.value_dims,
               TensorRole::kResidualLinear);
    if (c_.index_heads > 0) add_indexer(module + ".indexer");
  }

  void add_indexer(const std::string& module) {
    add_linear(module + ".wq_b", c_.index_heads * c_.index_dims, *c_.q_lora, TensorRole::kLinear);
    add_linear(module + ".wk", c_.index_dims, c_.hidden, TensorRole::kLinear);
    add(module + ".k_norm.weight", {c_.index_dims}, TensorRole::kNorm);
    add(module + ".k_norm.bias", {c_.index_dims}, TensorRole::kBias);
    add(module + ".weights_proj.weight", {c_.index_heads, c_.hidden}, TensorRole::kLinear);
  }

  void add_moe(const std::string& module) {
    add(module + ".gate.weight", {c_.experts, c_.hidden}, TensorRole::kRouter);
    if (c_.correction_bias) {
      add(module + ".gate.e_score_correction_bias", {c_.experts}, TensorRole::kRouterBias,
          DType::kF32);
    }
    for (int64_t e = 0; e < c_.experts; ++e) {
      add_mlp(module + ".experts." + std::to_string(e), c_.expert_intermediate, true);
    }
    if (c_.shared_experts > 0) {
      add_mlp(module + ".shared_experts", c_.shared_experts * c_.expert_intermediate, false);
    }
  }

  const ArchConfig& c_;
  int64_t layer_ = -1;
  bool draft_ = false;
  std::vector<InventoryTensor> tensors_;
};

}  // namespace

std::vector<InventoryTensor> tensor_inventory(const ArchConfig& config) {
  return Lister(config).list();
}

ParameterCount count_parameters(const ArchConfig& config) {
  ParameterCount count;
  int64_t routed = 0;
  for (const InventoryTensor& t : tensor_inventory(config)) {
    if (t.role == TensorRole::kScale) continue;
    const int64_t n = t.spec.elements();
    if (t.draft) {
      if (!t.copy) count.draft += n;
      continue;
    }
    count.total += n;
    const bool expert = t.role == TensorRole::kExpert || t.role == TensorRole::kExpertResidual;
    if (expert) routed += n;
    // A tied embedding is the head as well, and every token meets the head.
    const bool looked_up = t.role == TensorRole::kEmbedding && !config.tied_embeddings;
    if (!expert && !looked_up) count.active += n;
  }
  if (config.experts > 0) count.active += routed / config.experts * config.experts_per_token;
  return count;
}

}  // namespace fathom
