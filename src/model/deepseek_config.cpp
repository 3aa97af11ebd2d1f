// config.json of a DeepSeek-V2 or V3 checkpoint to DeepseekConfig.
#include "model/deepseek_config.h"

#include <cmath>

#include "model/rope_config.h"

namespace fathom {
namespace {

constexpr const char* kV2 = "DeepseekV2ForCausalLM";

// The softmax scale takes YaRN's mscale squared, as in transformers: cosines and sines take the
// ratio of mscale and mscale_all_dim, which is 1 in every published config (models.md 2.2).
float softmax_scale(const DeepseekConfig& c) {
  const double plain = 1.0 / std::sqrt(double(c.head_dims()));
  const auto* yarn = std::get_if<YarnConfig>(&c.rope.scaling);
  if (yarn == nullptr || yarn->mscale_all_dims == 0.0) return static_cast<float>(plain);
  const double m = yarn_mscale(yarn->factor, yarn->mscale_all_dims);
  return static_cast<float>(m * m * plain);
}

void read_attention(ConfigReader& in, DeepseekConfig& out) {
  out.heads = in.whole("num_attention_heads", 1, 1 << 16);
  if (in.has("q_lora_rank")) out.q_lora = in.whole("q_lora_rank", 1, kDimensionMax);
  out.kv_lora = in.whole("kv_lora_rank", 1, kDimensionMax);
  out.nope_dims = in.whole("qk_nope_head_dim", 1, 1 << 16);
  out.rope_dims = in.whole("qk_rope_head_dim", 2, 1 << 16);
  out.value_dims = in.whole("v_head_dim", 1, 1 << 16);
  if (out.rope_dims % 2 != 0) in.fail("qk_rope_head_dim", "must be even");
  if (in.flag("attention_bias", false)) in.fail("attention_bias", "true is not supported");
  if (!in.flag("rope_interleave", true)) in.fail("rope_interleave", "false is not supported");
  out.rope = read_rope(in, out.rope_dims, out.positions_max);
  out.softmax_scale = softmax_scale(out);
}

void must_be(ConfigReader& in, const char* key, const std::string& only) {
  const std::string value = in.text(key, only);
  if (value != only) in.fail(key, "is " + value + ", must be " + only);
}

// Softmax scores; the best experts, or the best of the groups that hold the best (DeepSeek-V2,
// section 2.2). What norm_topk_prob would mean differs among implementations, and no published V2
// sets it.
void read_v2_routing(ConfigReader& in, DeepseekConfig& out) {
  out.score = ScoreFunction::kSoftmax;
  out.group_score = GroupScore::kMax;
  out.correction_bias = false;
  out.normalize = false;
  must_be(in, "scoring_func", "softmax");
  if (in.flag("norm_topk_prob", false)) {
    in.fail("norm_topk_prob", "true is not supported for " + out.architecture);
  }
  const std::string method = in.text("topk_method", std::string("greedy"));
  if (method == "greedy") {
    out.groups = 1;
    out.groups_per_token = 1;
  } else if (method != "group_limited_greedy") {
    in.fail("topk_method", "is " + method + ", must be greedy or group_limited_greedy");
  }
}

// Sigmoid scores with a bias, the best of the groups whose two best have the largest sum
// (DeepSeek-V3, section 2.1.2).
void read_v3_routing(ConfigReader& in, DeepseekConfig& out) {
  out.normalize = in.flag("norm_topk_prob", true);
  must_be(in, "scoring_func", "sigmoid");
  must_be(in, "topk_method", "noaux_tc");
}

void read_experts(ConfigReader& in, DeepseekConfig& out) {
  out.intermediate = in.whole("intermediate_size", 1, kDimensionMax);
  out.dense_layers = in.whole("first_k_dense_replace", 0, 1 << 16, 0);
  out.moe_layer_freq = in.whole("moe_layer_freq", 1, 1 << 16, 1);
  out.moe_intermediate = in.whole("moe_intermediate_size", 1, kDimensionMax);
  out.experts = in.whole("n_routed_experts", 1, 1 << 16);
  out.shared_experts = in.whole("n_shared_experts", 0, 1 << 10, 0);
  out.experts_per_token = in.whole("num_experts_per_tok", 1, out.experts);
  out.groups = in.whole("n_group", 1, out.experts, 1);
  out.groups_per_token = in.whole("topk_group", 1, out.groups, 1);
  out.routed_scale = static_cast<float>(in.number("routed_scaling_factor", 1.0));
  if (out.architecture == kV2) {
    read_v2_routing(in, out);
  } else {
    read_v3_routing(in, out);
  }
  if (out.experts % out.groups != 0) in.fail("n_group", "does not divide n_routed_experts");
  if (out.experts_per_token > out.groups_per_token * (out.experts / out.groups)) {
    in.fail("num_experts_per_tok", "is more than the experts of topk_group groups");
  }
}

}  // namespace

Result<DeepseekConfig> read_deepseek_config(const ConfigFile& file, const std::string& directory) {
  ConfigReader in(file.json, file.path);
  DeepseekConfig out;
  out.architecture = file.architecture;
  if (file.family != ModelFamily::kDeepseek) {
    in.fail("architectures", "is " + file.architecture + ", which is not of DeepSeek-V2's kind");
  }
  out.hidden = in.whole("hidden_size", 1, kDimensionMax);
  out.layers = in.whole("num_hidden_layers", 1, 1 << 12);
  if (file.architecture != kV2) {
    out.draft_layers = in.whole("num_nextn_predict_layers", 0, 16, 0);
  }
  out.vocab = in.whole("vocab_size", 1, kDimensionMax);
  out.positions_max = in.whole("max_position_embeddings", 1, int64_t{1} << 30);
  out.norm_epsilon = static_cast<float>(in.number("rms_norm_eps"));
  out.tied_embedding = in.flag("tie_word_embeddings", false);
  must_be(in, "hidden_act", "silu");
  read_attention(in, out);
  read_experts(in, out);
  out.bos = in.whole("bos_token_id", 0, kDimensionMax, 0);
  FATHOM_RETURN_IF_ERROR(in.status());
  FATHOM_ASSIGN(out.eos, read_eos(file, directory));
  return out;
}

Result<DeepseekConfig> read_deepseek_config(const std::string& directory) {
  FATHOM_ASSIGN(const ConfigFile file, open_config(directory));
  return read_deepseek_config(file, directory);
}

}  // namespace fathom
