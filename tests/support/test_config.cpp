#include "support/test_config.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace fathom::testing {

Json tiny_config() {
  return Json{{"architectures", {"DeepseekV3ForCausalLM"}},
              {"attention_bias", false},
              {"bos_token_id", 0},
              {"eos_token_id", 1},
              {"first_k_dense_replace", 1},
              {"hidden_act", "silu"},
              {"hidden_size", 256},
              {"intermediate_size", 640},
              {"kv_lora_rank", 512},
              {"max_position_embeddings", 256},
              {"model_type", "deepseek_v3"},
              {"moe_intermediate_size", 160},
              {"moe_layer_freq", 1},
              {"n_group", 4},
              {"n_routed_experts", 16},
              {"n_shared_experts", 1},
              {"norm_topk_prob", true},
              {"num_attention_heads", 4},
              {"num_experts_per_tok", 4},
              {"num_hidden_layers", 3},
              {"num_nextn_predict_layers", 1},
              {"q_lora_rank", 128},
              {"qk_nope_head_dim", 128},
              {"qk_rope_head_dim", 64},
              {"rms_norm_eps", 1e-6},
              {"rope_scaling",
               {{"beta_fast", 32},
                {"beta_slow", 1},
                {"factor", 4},
                {"mscale", 1.0},
                {"mscale_all_dim", 1.0},
                {"original_max_position_embeddings", 64},
                {"type", "yarn"}}},
              {"rope_theta", 10000},
              {"routed_scaling_factor", 2.5},
              {"scoring_func", "sigmoid"},
              {"tie_word_embeddings", false},
              {"topk_group", 2},
              {"topk_method", "noaux_tc"},
              {"torch_dtype", "bfloat16"},
              {"v_head_dim", 128},
              {"vocab_size", 512}};
}

ModelDirectory::ModelDirectory(const Json& config) {
  std::string pattern = std::filesystem::temp_directory_path() / "fathom_model_XXXXXX";
  path_ = mkdtemp(pattern.data());
  write("config.json", config.dump(2));
}

ModelDirectory::~ModelDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

void ModelDirectory::write(const std::string& file, const std::string& text) const {
  std::ofstream(path_ + "/" + file) << text;
}

}  // namespace fathom::testing
