// config.json to ArchConfig; keys as in models.md 1 and 8.6.
#include "weights/arch_config.h"

#include <array>

#include "weights/json_fields.h"

namespace fathom {
namespace {

struct Architecture {
  const char* name;
  ArchFamily family;
};
constexpr std::array<Architecture, 7> kArchitectures = {
    {{"LlamaForCausalLM", ArchFamily::kLlama},
     {"Qwen2ForCausalLM", ArchFamily::kQwen2},
     {"Qwen3ForCausalLM", ArchFamily::kQwen3},
     {"DeepseekForCausalLM", ArchFamily::kDeepseek},
     {"DeepseekV2ForCausalLM", ArchFamily::kDeepseekV2},
     {"DeepseekV3ForCausalLM", ArchFamily::kDeepseekV3},
     {"DeepseekV32ForCausalLM", ArchFamily::kDeepseekV32}}};

// Bounds under which no product of the inventory overflows 64 bits.
constexpr int64_t kDimensionMax = int64_t{1} << 24;
constexpr int64_t kLayersMax = 4096;
constexpr int64_t kExpertsMax = 65536;

// Reads integers of one object; the first error sticks.
class Reader {
 public:
  explicit Reader(const Json& object) : object_(object) {}

  int64_t integer(const char* key, int64_t min, int64_t max,
                  std::optional<int64_t> otherwise = std::nullopt) {
    const Result<int64_t> value = json_integer(object_, key, min, max, otherwise);
    if (value.is_ok()) return *value;
    note(value.status());
    return min;
  }
  int64_t dimension(const char* key, std::optional<int64_t> otherwise = std::nullopt) {
    return integer(key, 1, kDimensionMax, otherwise);
  }
  bool boolean(const char* key, bool otherwise) {
    const Result<bool> value = json_bool(object_, key, otherwise);
    if (value.is_ok()) return *value;
    note(value.status());
    return otherwise;
  }
  bool has(const char* key) const {
    const auto found = object_.find(key);
    return found != object_.end() && !found->is_null();
  }
  void fail(const std::string& key, const std::string& why) {
    note(invalid_argument("'" + key + "' " + why).about(key));
  }
  const Status& status() const { return status_; }

 private:
  void note(Status status) {
    if (status_.is_ok()) status_ = std::move(status);
  }
  const Json& object_;
  Status status_;
};

void read_attention(Reader& r, ArchConfig& c) {
  c.heads = r.integer("num_attention_heads", 1, 65536);
  c.kv_heads = r.integer("num_key_value_heads", 1, 65536, c.heads);
  c.head_dim = r.dimension("head_dim", std::max<int64_t>(c.hidden / c.heads, 1));
  // transformers' Qwen2 has them whatever its config says.
  c.qkv_bias = c.family == ArchFamily::kQwen2 || r.boolean("attention_bias", false);
  c.qk_norm = c.family == ArchFamily::kQwen3;
  if (c.heads % c.kv_heads != 0) {
    r.fail("num_key_value_heads", "must divide num_attention_heads");
  }
}

void read_latent_attention(Reader& r, ArchConfig& c) {
  c.heads = r.integer("num_attention_heads", 1, 65536);
  if (r.has("q_lora_rank")) c.q_lora = r.dimension("q_lora_rank");
  c.kv_lora = r.dimension("kv_lora_rank");
  c.nope_dims = r.dimension("qk_nope_head_dim");
  c.rope_dims = r.dimension("qk_rope_head_dim");
  c.value_dims = r.dimension("v_head_dim");
  if (c.family != ArchFamily::kDeepseekV32) return;
  c.index_heads = r.integer("index_n_heads", 1, 65536);
  c.index_dims = r.dimension("index_head_dim");
  if (!c.q_lora) r.fail("q_lora_rank", "is needed by the indexer");
}

void read_experts(Reader& r, ArchConfig& c) {
  if (!r.has("n_routed_experts")) return;
  c.experts = r.integer("n_routed_experts", 1, kExpertsMax);
  c.experts_per_token = r.integer("num_experts_per_tok", 1, c.experts);
  c.shared_experts = r.integer("n_shared_experts", 0, 1024, 0);
  c.expert_intermediate = r.dimension("moe_intermediate_size");
  c.dense_layers_first = r.integer("first_k_dense_replace", 0, kLayersMax, 0);
  c.moe_layer_period = r.integer("moe_layer_freq", 1, kLayersMax, 1);
  c.correction_bias = c.family >= ArchFamily::kDeepseekV3;
}

Result<ArchFamily> family_of(const Json& config, const std::string& file, std::string& name) {
  const auto list = config.find("architectures");
  if (list == config.end() || !list->is_array() || list->size() != 1 ||
      !list->front().is_string()) {
    return invalid_argument(file + ": 'architectures' must be a list of one name")
        .about("architectures");
  }
  name = list->front().get<std::string>();
  for (const Architecture& a : kArchitectures) {
    if (name == a.name) return a.family;
  }
  std::string known;
  for (const std::string& a : supported_architectures()) known += (known.empty() ? "" : ", ") + a;
  return unimplemented(file + ": architecture " + quoted_name(name) +
                       " is not supported; these are: " + known)
      .about("architectures");
}

Result<DType> dtype_of(const Json& config, const std::string& file) {
  for (const char* key : {"torch_dtype", "dtype"}) {
    FATHOM_ASSIGN(const std::string name, json_string(config, key, ""));
    if (name.empty()) continue;
    if (name == "float32") return DType::kF32;
    if (name == "bfloat16" || name == "float16") return DType::kBF16;
    return invalid_argument(file + ": '" + key + "' " + quoted_name(name) +
                            " is not float32, bfloat16 or float16")
        .about(key);
  }
  return DType::kBF16;
}

}  // namespace

std::vector<std::string> supported_architectures() {
  std::vector<std::string> names;
  for (const Architecture& a : kArchitectures) names.emplace_back(a.name);
  return names;
}

Result<ArchConfig> parse_arch_config(std::string_view config_json, const std::string& file) {
  FATHOM_ASSIGN(const Json config, parse_json_object(config_json, file));
  ArchConfig c;
  FATHOM_ASSIGN(c.family, family_of(config, file, c.architecture));
  FATHOM_ASSIGN(c.quantization, parse_quantization_config(config_json, file));
  FATHOM_ASSIGN(c.dtype, dtype_of(config, file));
  Reader r(config);
  c.layers = r.integer("num_hidden_layers", 1, kLayersMax);
  c.hidden = r.dimension("hidden_size");
  c.vocab = r.dimension("vocab_size");
  c.positions_max = r.integer("max_position_embeddings", 1, int64_t{1} << 31);
  c.intermediate = r.dimension("intermediate_size");
  c.tied_embeddings = r.boolean("tie_word_embeddings", false);
  if (c.family >= ArchFamily::kDeepseekV3) {
    c.draft_layers = r.integer("num_nextn_predict_layers", 0, 16, 0);
  }
  if (c.family >= ArchFamily::kDeepseekV2) {
    read_latent_attention(r, c);
  } else {
    read_attention(r, c);
  }
  if (c.family >= ArchFamily::kDeepseek) read_experts(r, c);
  if (!r.status().is_ok()) {
    return Status(r.status().code(), file + ": " + r.status().message())
        .about(r.status().subject());
  }
  return c;
}

KvElements kv_elements_per_token(const ArchConfig& c) {
  int64_t per_layer = 2 * c.kv_heads * c.head_dim;
  if (c.kv_lora > 0) per_layer = c.kv_lora + c.rope_dims;
  return {per_layer * c.layers, per_layer * c.draft_layers};
}

}  // namespace fathom
