// The shapes in a config.json, of every architecture whose tensors Fathom can list: what a
// checkpoint must hold, how many parameters it has, what it caches per token. (How a model computes
// is src/model's.) A value.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "fathom/status.h"
#include "fathom/tensor.h"
#include "weights/quantization.h"

namespace fathom {

enum class ArchFamily {
  kLlama,
  kQwen2,
  kQwen3,
  kDeepseek,     // MoE-16B: multi-head attention, mixture of experts
  kDeepseekV2,   // latent attention
  kDeepseekV3,   // and a correction bias, multi-token prediction, FP8
  kDeepseekV32,  // and an indexer
};

struct ArchConfig {
  std::string architecture;  // "DeepseekV3ForCausalLM"
  ArchFamily family = ArchFamily::kLlama;
  int64_t layers = 0;        // draft layers left out
  int64_t draft_layers = 0;  // multi-token prediction
  int64_t hidden = 0;
  int64_t vocab = 0;
  int64_t positions_max = 0;
  int64_t intermediate = 0;  // of dense layers
  bool tied_embeddings = false;
  int64_t heads = 0;
  // Multi-head and grouped attention.
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  bool qkv_bias = false;
  bool qk_norm = false;
  // Latent attention (kv_lora is 0 without it).
  std::optional<int64_t> q_lora;
  int64_t kv_lora = 0;
  int64_t nope_dims = 0;
  int64_t rope_dims = 0;
  int64_t value_dims = 0;
  // Mixture of experts (experts is 0 without it).
  int64_t experts = 0;
  int64_t experts_per_token = 0;
  int64_t shared_experts = 0;
  int64_t expert_intermediate = 0;
  int64_t dense_layers_first = 0;
  int64_t moe_layer_period = 1;
  bool correction_bias = false;
  // Sparse attention's indexer (index_heads is 0 without it).
  int64_t index_heads = 0;
  int64_t index_dims = 0;
  QuantizationConfig quantization;
  DType dtype = DType::kBF16;  // of what is not quantized: BF16 or F32

  bool is_moe_layer(int64_t layer) const {
    return experts > 0 && layer >= dense_layers_first && layer % moe_layer_period == 0;
  }
};

// Names that parse_arch_config accepts, for errors and help.
std::vector<std::string> supported_architectures();

// Errors name `file` and the key. UNIMPLEMENTED for an architecture that is not in the list.
Result<ArchConfig> parse_arch_config(std::string_view config_json, const std::string& file);

// Elements that one token adds to the cache of all layers: {of layers, of draft layers}.
struct KvElements {
  int64_t layers = 0;
  int64_t draft_layers = 0;
};
KvElements kv_elements_per_token(const ArchConfig& config);

}  // namespace fathom
