// The texts are config.json members that differ between models; what a family shares is added.
#include "ctl/presets.h"

#include <array>

namespace fathom::ctl {
namespace {

// Multi-head latent attention with the published head dimensions.
constexpr const char* kLatent =
    R"("kv_lora_rank":512,"qk_nope_head_dim":128,"qk_rope_head_dim":64,"v_head_dim":128,)";
constexpr const char* kCommon =
    R"("hidden_act":"silu","rms_norm_eps":1e-06,"tie_word_embeddings":false,"attention_bias":false,
"torch_dtype":"bfloat16","use_cache":true)";
constexpr const char* kV3 =
    R"("architectures":["DeepseekV3ForCausalLM"],"model_type":"deepseek_v3","bos_token_id":0,
"eos_token_id":1,"scoring_func":"sigmoid","topk_method":"noaux_tc","norm_topk_prob":true,
"routed_scaling_factor":2.5,"moe_layer_freq":1,"rope_theta":10000,
"quantization_config":{"quant_method":"fp8","fmt":"e4m3","activation_scheme":"dynamic",
"weight_block_size":[128,128]},)";
constexpr const char* kV2 =
    R"("architectures":["DeepseekV2ForCausalLM"],"model_type":"deepseek_v2","bos_token_id":100000,
"eos_token_id":100001,"scoring_func":"softmax","norm_topk_prob":false,"moe_layer_freq":1,
"rope_theta":10000,"vocab_size":102400,"max_position_embeddings":163840,)";
constexpr const char* kLlama = R"("architectures":["LlamaForCausalLM"],"model_type":"llama",)";
constexpr const char* kQwen2 =
    R"("architectures":["Qwen2ForCausalLM"],"model_type":"qwen2","bos_token_id":151643,
"eos_token_id":151643,"use_sliding_window":false,"max_position_embeddings":131072,)";

struct Preset {
  const char* name;
  const char* family;
  const char* attention;
  const char* own;
};

constexpr std::array<Preset, 11> kPresets = {{
    {"v3-tiny", kV3, kLatent,
     R"("num_hidden_layers":2,"num_nextn_predict_layers":1,"hidden_size":256,
"intermediate_size":512,"moe_intermediate_size":128,"vocab_size":4096,
"max_position_embeddings":4096,"num_attention_heads":2,"num_key_value_heads":2,"q_lora_rank":128,
"n_routed_experts":8,"n_shared_experts":1,"num_experts_per_tok":2,"n_group":4,"topk_group":2,
"first_k_dense_replace":1,"rope_scaling":{"type":"yarn","factor":4,"beta_fast":32,"beta_slow":1,
"mscale":1.0,"mscale_all_dim":1.0,"original_max_position_embeddings":1024},)"},
    {"v3-demo", kV3, kLatent,
     R"("num_hidden_layers":6,"num_nextn_predict_layers":1,"hidden_size":256,
"intermediate_size":640,"moe_intermediate_size":128,"vocab_size":4096,
"max_position_embeddings":4096,"num_attention_heads":4,"num_key_value_heads":4,"q_lora_rank":256,
"n_routed_experts":16,"n_shared_experts":1,"num_experts_per_tok":4,"n_group":4,"topk_group":2,
"first_k_dense_replace":1,"rope_scaling":{"type":"yarn","factor":4,"beta_fast":32,"beta_slow":1,
"mscale":1.0,"mscale_all_dim":1.0,"original_max_position_embeddings":1024},)"},
    {"v3", kV3, kLatent,
     R"("num_hidden_layers":61,"num_nextn_predict_layers":1,"hidden_size":7168,
"intermediate_size":18432,"moe_intermediate_size":2048,"vocab_size":129280,
"max_position_embeddings":163840,"num_attention_heads":128,"num_key_value_heads":128,
"q_lora_rank":1536,"n_routed_experts":256,"n_shared_experts":1,"num_experts_per_tok":8,
"n_group":8,"topk_group":4,"first_k_dense_replace":3,"rope_scaling":{"type":"yarn","factor":40,
"beta_fast":32,"beta_slow":1,"mscale":1.0,"mscale_all_dim":1.0,
"original_max_position_embeddings":4096},)"},
    {"v2-lite", kV2, kLatent,
     R"("num_hidden_layers":27,"hidden_size":2048,"intermediate_size":10944,
"moe_intermediate_size":1408,"num_attention_heads":16,"num_key_value_heads":16,
"q_lora_rank":null,"n_routed_experts":64,"n_shared_experts":2,"num_experts_per_tok":6,
"n_group":1,"topk_group":1,"topk_method":"greedy","routed_scaling_factor":1.0,
"first_k_dense_replace":1,"rope_scaling":{"type":"yarn","factor":40,"beta_fast":32,
"beta_slow":1,"mscale":0.707,"mscale_all_dim":0.707,"original_max_position_embeddings":4096},)"},
    {"v2", kV2, kLatent,
     R"("num_hidden_layers":60,"hidden_size":5120,"intermediate_size":12288,
"moe_intermediate_size":1536,"num_attention_heads":128,"num_key_value_heads":128,
"q_lora_rank":1536,"n_routed_experts":160,"n_shared_experts":2,"num_experts_per_tok":6,
"n_group":8,"topk_group":3,"topk_method":"group_limited_greedy","routed_scaling_factor":16.0,
"first_k_dense_replace":1,"rope_scaling":{"type":"yarn","factor":40,"beta_fast":32,
"beta_slow":1,"mscale":0.707,"mscale_all_dim":0.707,"original_max_position_embeddings":4096},)"},
    {"llm-7b", kLlama, "",
     R"("num_hidden_layers":30,"hidden_size":4096,"intermediate_size":11008,
"num_attention_heads":32,"num_key_value_heads":32,"vocab_size":102400,
"max_position_embeddings":4096,"rope_theta":10000,"bos_token_id":100000,"eos_token_id":100001,)"},
    {"llama-8b", kLlama, "",
     R"("num_hidden_layers":32,"hidden_size":4096,"intermediate_size":14336,
"num_attention_heads":32,"num_key_value_heads":8,"vocab_size":128256,
"max_position_embeddings":131072,"rope_theta":500000,"rope_scaling":{"rope_type":"llama3",
"factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,
"original_max_position_embeddings":8192},"bos_token_id":128000,"eos_token_id":128001,)"},
    {"llama-70b", kLlama, "",
     R"("num_hidden_layers":80,"hidden_size":8192,"intermediate_size":28672,
"num_attention_heads":64,"num_key_value_heads":8,"vocab_size":128256,
"max_position_embeddings":131072,"rope_theta":500000,"rope_scaling":{"rope_type":"llama3",
"factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,
"original_max_position_embeddings":8192},"bos_token_id":128000,"eos_token_id":128001,)"},
    {"qwen-1.5b", kQwen2, "",
     R"("num_hidden_layers":28,"hidden_size":1536,"intermediate_size":8960,
"num_attention_heads":12,"num_key_value_heads":2,"vocab_size":151936,"rope_theta":10000,)"},
    {"qwen-7b", kQwen2, "",
     R"("num_hidden_layers":28,"hidden_size":3584,"intermediate_size":18944,
"num_attention_heads":28,"num_key_value_heads":4,"vocab_size":152064,"rope_theta":10000,)"},
    {"qwen-32b", kQwen2, "",
     R"("num_hidden_layers":64,"hidden_size":5120,"intermediate_size":27648,
"num_attention_heads":40,"num_key_value_heads":8,"vocab_size":152064,"rope_theta":1000000,)"},
}};

}  // namespace

std::vector<std::string> preset_list() {
  std::vector<std::string> names;
  for (const Preset& p : kPresets) names.emplace_back(p.name);
  return names;
}

std::string preset_names() {
  std::string names;
  for (const Preset& p : kPresets) names += (names.empty() ? "" : ", ") + std::string(p.name);
  return names;
}

std::optional<std::string> preset_config(std::string_view name) {
  for (const Preset& p : kPresets) {
    if (name == p.name) return "{" + std::string(p.family) + p.attention + p.own + kCommon + "}";
  }
  return std::nullopt;
}

}  // namespace fathom::ctl
