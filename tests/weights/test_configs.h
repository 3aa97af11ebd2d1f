// config.json of published models, cut to what shapes need (models.md 1), and tiny ones.
#pragma once

namespace fathom::testing {

inline constexpr const char* kV3Config = R"({"architectures":["DeepseekV3ForCausalLM"],
 "num_hidden_layers":61,"num_nextn_predict_layers":1,"hidden_size":7168,"intermediate_size":18432,
 "moe_intermediate_size":2048,"vocab_size":129280,"max_position_embeddings":163840,
 "num_attention_heads":128,"num_key_value_heads":128,"q_lora_rank":1536,"kv_lora_rank":512,
 "qk_nope_head_dim":128,"qk_rope_head_dim":64,"v_head_dim":128,"n_routed_experts":256,
 "n_shared_experts":1,"num_experts_per_tok":8,"first_k_dense_replace":3,"moe_layer_freq":1,
 "torch_dtype":"bfloat16","tie_word_embeddings":false,
 "quantization_config":{"quant_method":"fp8","fmt":"e4m3","activation_scheme":"dynamic",
 "weight_block_size":[128,128]}})";

inline constexpr const char* kV2LiteConfig = R"({"architectures":["DeepseekV2ForCausalLM"],
 "num_hidden_layers":27,"hidden_size":2048,"intermediate_size":10944,"moe_intermediate_size":1408,
 "vocab_size":102400,"max_position_embeddings":163840,"num_attention_heads":16,"q_lora_rank":null,
 "kv_lora_rank":512,"qk_nope_head_dim":128,"qk_rope_head_dim":64,"v_head_dim":128,
 "n_routed_experts":64,"n_shared_experts":2,"num_experts_per_tok":6,"first_k_dense_replace":1,
 "torch_dtype":"bfloat16"})";

inline constexpr const char* kV2Config = R"({"architectures":["DeepseekV2ForCausalLM"],
 "num_hidden_layers":60,"hidden_size":5120,"intermediate_size":12288,"moe_intermediate_size":1536,
 "vocab_size":102400,"max_position_embeddings":163840,"num_attention_heads":128,
 "q_lora_rank":1536,"kv_lora_rank":512,"qk_nope_head_dim":128,"qk_rope_head_dim":64,
 "v_head_dim":128,"n_routed_experts":160,"n_shared_experts":2,"num_experts_per_tok":6,
 "first_k_dense_replace":1})";

inline constexpr const char* kMoe16bConfig = R"({"architectures":["DeepseekForCausalLM"],
 "num_hidden_layers":28,"hidden_size":2048,"intermediate_size":10944,"moe_intermediate_size":1408,
 "vocab_size":102400,"max_position_embeddings":4096,"num_attention_heads":16,
 "num_key_value_heads":16,"n_routed_experts":64,"n_shared_experts":2,"num_experts_per_tok":6,
 "first_k_dense_replace":1})";

inline constexpr const char* kLlm7bConfig = R"({"architectures":["LlamaForCausalLM"],
 "num_hidden_layers":30,"hidden_size":4096,"intermediate_size":11008,"vocab_size":102400,
 "max_position_embeddings":4096,"num_attention_heads":32,"num_key_value_heads":32})";

inline constexpr const char* kDistillQwen7bConfig = R"({"architectures":["Qwen2ForCausalLM"],
 "num_hidden_layers":28,"hidden_size":3584,"intermediate_size":18944,"vocab_size":152064,
 "max_position_embeddings":131072,"num_attention_heads":28,"num_key_value_heads":4})";

inline constexpr const char* kDistillLlama70bConfig = R"({"architectures":["LlamaForCausalLM"],
 "num_hidden_layers":80,"hidden_size":8192,"intermediate_size":28672,"vocab_size":128256,
 "max_position_embeddings":131072,"num_attention_heads":64,"num_key_value_heads":8})";

// Edge blocks everywhere: no dimension but the head's is a multiple of 128.
inline constexpr const char* kTinyV3Fp8Config = R"({"architectures":["DeepseekV3ForCausalLM"],
 "num_hidden_layers":2,"num_nextn_predict_layers":1,"hidden_size":192,"intermediate_size":320,
 "moe_intermediate_size":96,"vocab_size":500,"max_position_embeddings":4096,
 "num_attention_heads":2,"q_lora_rank":160,"kv_lora_rank":64,"qk_nope_head_dim":32,
 "qk_rope_head_dim":16,"v_head_dim":32,"n_routed_experts":4,"n_shared_experts":1,
 "num_experts_per_tok":2,"first_k_dense_replace":1,"torch_dtype":"bfloat16",
 "quantization_config":{"quant_method":"fp8","weight_block_size":[128,128],"scale_fmt":"ue8m0"}})";

inline constexpr const char* kTinyQwenConfig = R"({"architectures":["Qwen2ForCausalLM"],
 "num_hidden_layers":2,"hidden_size":64,"intermediate_size":128,"vocab_size":1000,
 "max_position_embeddings":4096,"num_attention_heads":4,"num_key_value_heads":2,
 "torch_dtype":"float32"})";

}  // namespace fathom::testing
