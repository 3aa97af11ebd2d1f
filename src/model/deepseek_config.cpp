// config.json of a DeepSeek-V3 checkpoint to DeepseekConfig.
#include "model/deepseek_config.h"

#include <algorithm>
#include <cmath>

#include "base/file.h"
#include "base/json.h"
#include "model/config_reader.h"

namespace fathom {
namespace {

constexpr size_t kConfigBytesMax = size_t{4} << 20;
constexpr int64_t kDimensionMax = int64_t{1} << 24;
constexpr const char* kKnownArchitectures[] = {"DeepseekV3ForCausalLM"};

Result<Json> read_object(const std::string& path) {
  FATHOM_ASSIGN(const std::string text, read_file(path, kConfigBytesMax));
  auto json = parse_json(text);
  if (!json.is_ok()) {
    return Status(Code::kInvalidArgument, path + ": " + json.status().message()).about(path);
  }
  if (!json->is_object()) return invalid_argument(path + ": is not a JSON object").about(path);
  return json;
}

std::string known_architectures() {
  std::string list;
  for (const char* name : kKnownArchitectures)
    list += (list.empty() ? "" : ", ") + std::string(name);
  return list;
}

void read_architecture(ConfigReader& in, DeepseekConfig& out) {
  const Json& object = in.object();
  if (!in.has("architectures") || !object.at("architectures").is_array() ||
      object.at("architectures").size() != 1 || !object.at("architectures")[0].is_string()) {
    in.fail("architectures", "must be a list of one name");
    return;
  }
  out.architecture = object.at("architectures")[0].get<std::string>();
  const bool known = std::any_of(std::begin(kKnownArchitectures), std::end(kKnownArchitectures),
                                 [&](const char* name) { return out.architecture == name; });
  if (!known) {
    in.fail("architectures", "is " + out.architecture + ", which Fathom does not serve (known: " +
                                 known_architectures() + ")");
  }
}

// transformers writes the kind of scaling as "type" or "rope_type".
std::string rope_kind(ConfigReader& in) {
  return in.text("rope_type", in.text("type", std::string("default")));
}

void read_yarn(ConfigReader& in, int32_t positions_max, DeepseekConfig& out) {
  YarnConfig yarn;
  yarn.original_positions = in.whole("original_max_position_embeddings", 1, int64_t{1} << 31);
  yarn.factor = in.number("factor", positions_max / yarn.original_positions);
  yarn.beta_fast = in.number("beta_fast", 32.0);
  yarn.beta_slow = in.number("beta_slow", 1.0);
  if (yarn.factor <= 0.0) in.fail("factor", "must be positive");
  if (yarn.beta_fast <= 0.0 || yarn.beta_slow <= 0.0) {
    in.fail("beta_fast", "and beta_slow must be positive");
  }
  if (in.has("truncate") && !in.flag("truncate")) in.fail("truncate", "false is not supported");
  const double mscale = in.number("mscale", 0.0);
  const double mscale_all = in.number("mscale_all_dim", 0.0);
  double attention = yarn_mscale(yarn.factor, 1.0);
  if (mscale != 0.0 && mscale_all != 0.0) {
    attention = yarn_mscale(yarn.factor, mscale) / yarn_mscale(yarn.factor, mscale_all);
  }
  yarn.attention_factor = in.number("attention_factor", attention);
  if (mscale_all != 0.0) {
    const double m = yarn_mscale(yarn.factor, mscale_all);
    out.softmax_scale = static_cast<float>(m * m / std::sqrt(double(out.head_dims())));
  }
  out.rope.yarn = yarn;
}

// rope_theta and rope_scaling, or transformers 5's rope_parameters that hold both.
void read_rope(ConfigReader& in, DeepseekConfig& out) {
  out.rope.dims = out.rope_dims;
  out.softmax_scale = static_cast<float>(1.0 / std::sqrt(double(out.head_dims())));
  const bool joined = in.has("rope_parameters");
  const char* key = joined ? "rope_parameters" : "rope_scaling";
  if (!joined) out.rope.theta = in.number("rope_theta");
  if (in.has(key)) {
    const Json& scaling = in.object().at(key);
    if (!scaling.is_object()) {
      in.fail(key, "must be an object");
      return;
    }
    ConfigReader inner(scaling, in.file(), std::string(key) + ".");
    if (joined) {
      out.rope.theta =
          inner.has("rope_theta") ? inner.number("rope_theta") : in.number("rope_theta");
    }
    const std::string kind = rope_kind(inner);
    if (kind == "yarn") {
      read_yarn(inner, out.positions_max, out);
    } else if (kind != "default") {
      inner.fail("type", "is " + kind + ", which Fathom does not serve (known: yarn, default)");
    }
    in.adopt(inner.status());
  }
  if (out.rope.theta <= 1.0) in.fail("rope_theta", "must be over 1");
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
  out.normalize = in.flag("norm_topk_prob", true);
  out.routed_scale = static_cast<float>(in.number("routed_scaling_factor", 1.0));
  if (out.experts % out.groups != 0) in.fail("n_group", "does not divide n_routed_experts");
  if (out.experts_per_token > out.groups_per_token * (out.experts / out.groups)) {
    in.fail("num_experts_per_tok", "is more than the experts of topk_group groups");
  }
  const std::string scoring = in.text("scoring_func", std::string("sigmoid"));
  if (scoring != "sigmoid") in.fail("scoring_func", "is " + scoring + ", must be sigmoid");
  const std::string method = in.text("topk_method", std::string("noaux_tc"));
  if (method != "noaux_tc") in.fail("topk_method", "is " + method + ", must be noaux_tc");
}

void add_ids(const std::vector<int32_t>& from, std::vector<TokenId>& to) {
  for (const int32_t id : from) {
    if (std::find(to.begin(), to.end(), id) == to.end()) to.push_back(id);
  }
}

}  // namespace

Result<DeepseekConfig> read_deepseek_config(const std::string& directory) {
  const std::string path = directory + "/config.json";
  FATHOM_ASSIGN(const Json json, read_object(path));
  ConfigReader in(json, path);
  DeepseekConfig out;
  read_architecture(in, out);
  FATHOM_RETURN_IF_ERROR(in.status());
  out.hidden = in.whole("hidden_size", 1, kDimensionMax);
  out.layers = in.whole("num_hidden_layers", 1, 1 << 12);
  out.draft_layers = in.whole("num_nextn_predict_layers", 0, 16, 0);
  out.vocab = in.whole("vocab_size", 1, kDimensionMax);
  out.positions_max = in.whole("max_position_embeddings", 1, int64_t{1} << 30);
  out.norm_epsilon = static_cast<float>(in.number("rms_norm_eps"));
  out.tied_embedding = in.flag("tie_word_embeddings", false);
  const std::string activation = in.text("hidden_act", std::string("silu"));
  if (activation != "silu") in.fail("hidden_act", "is " + activation + ", must be silu");
  read_attention(in, out);
  read_rope(in, out);
  read_experts(in, out);
  out.bos = in.whole("bos_token_id", 0, kDimensionMax, 0);
  add_ids(in.ids("eos_token_id"), out.eos);
  FATHOM_RETURN_IF_ERROR(in.status());

  const std::string generation = directory + "/generation_config.json";
  if (!open_for_read(generation).is_ok()) return out;
  FATHOM_ASSIGN(const Json extra, read_object(generation));
  ConfigReader more(extra, generation);
  add_ids(more.ids("eos_token_id"), out.eos);
  FATHOM_RETURN_IF_ERROR(more.status());
  return out;
}

}  // namespace fathom
