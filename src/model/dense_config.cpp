// config.json of Llama, Qwen2 and Qwen3 to DenseConfig (models.md 1.1, 8.6).
#include "model/dense_config.h"

#include "model/rope_config.h"

namespace fathom {
namespace {

void refuse_if_set(ConfigReader& in, const char* key) {
  if (in.flag(key, false)) in.fail(key, "true is not supported");
}

void read_heads(ConfigReader& in, DenseConfig& out) {
  out.heads = in.whole("num_attention_heads", 1, 1 << 16);
  out.kv_heads = in.whole("num_key_value_heads", 1, 1 << 16, out.heads);
  if (out.heads % out.kv_heads != 0) {
    in.fail("num_key_value_heads", "does not divide num_attention_heads");
  }
  if (!in.has("head_dim") && out.hidden % out.heads != 0) {
    in.fail("num_attention_heads", "does not divide hidden_size, and there is no head_dim");
  }
  out.head_dims = in.whole("head_dim", 2, 1 << 10, out.hidden / out.heads);
  if (out.head_dims % 2 != 0) in.fail("head_dim", "must be even");
}

// Qwen2 has biases on queries, keys and values whether its config says so or not; a bias elsewhere
// is none that these families are published with.
void read_attention(ConfigReader& in, DenseConfig& out) {
  read_heads(in, out);
  out.qkv_bias = out.architecture == "Qwen2ForCausalLM";
  out.qk_norm = out.architecture == "Qwen3ForCausalLM";
  if (!out.qkv_bias) refuse_if_set(in, "attention_bias");
  refuse_if_set(in, "mlp_bias");
  refuse_if_set(in, "use_sliding_window");
  refuse_if_set(in, "rope_interleaved");
  out.rope = read_rope(in, out.head_dims, out.positions_max);
}

}  // namespace

Result<DenseConfig> read_dense_config(const ConfigFile& file, const std::string& directory) {
  ConfigReader in(file.json, file.path);
  DenseConfig out;
  out.architecture = file.architecture;
  if (file.family != ModelFamily::kDense) {
    in.fail("architectures", "is " + file.architecture + ", which is not of Llama's kind");
  }
  out.hidden = in.whole("hidden_size", 1, kDimensionMax);
  out.layers = in.whole("num_hidden_layers", 1, 1 << 12);
  out.vocab = in.whole("vocab_size", 1, kDimensionMax);
  out.positions_max = in.whole("max_position_embeddings", 1, int64_t{1} << 30);
  out.norm_epsilon = static_cast<float>(in.number("rms_norm_eps"));
  out.tied_embedding = in.flag("tie_word_embeddings", false);
  out.intermediate = in.whole("intermediate_size", 1, kDimensionMax);
  const std::string activation = in.text("hidden_act", std::string("silu"));
  if (activation != "silu") in.fail("hidden_act", "is " + activation + ", must be silu");
  read_attention(in, out);
  out.bos = in.whole("bos_token_id", 0, kDimensionMax, 0);
  FATHOM_RETURN_IF_ERROR(in.status());
  FATHOM_ASSIGN(out.eos, read_eos(file, directory));
  return out;
}

Result<DenseConfig> read_dense_config(const std::string& directory) {
  FATHOM_ASSIGN(const ConfigFile file, open_config(directory));
  return read_dense_config(file, directory);
}

}  // namespace fathom
