// Rotary settings of config.json (models.md 2.2).
#include "model/rope_config.h"

#include <string>

namespace fathom {
namespace {

// transformers writes the kind of scaling as "type" or "rope_type".
std::string rope_kind(ConfigReader& in) {
  return in.text("rope_type", in.text("type", std::string("default")));
}

double positive(ConfigReader& in, const char* key, std::optional<double> otherwise = std::nullopt) {
  const double value = in.number(key, otherwise);
  if (value <= 0.0) in.fail(key, "must be positive");
  return value;
}

LinearRope read_linear(ConfigReader& in) { return {positive(in, "factor")}; }

Llama3Rope read_llama3(ConfigReader& in) {
  Llama3Rope rope;
  rope.factor = positive(in, "factor");
  rope.low_frequency = positive(in, "low_freq_factor");
  rope.high_frequency = positive(in, "high_freq_factor");
  rope.original_positions = in.whole("original_max_position_embeddings", 1, int64_t{1} << 31);
  if (rope.high_frequency <= rope.low_frequency) {
    in.fail("high_freq_factor", "must be over low_freq_factor");
  }
  return rope;
}

// What multiplies cosines and sines. DeepSeek-R1-0528-Qwen3-8B writes attn_factor, which multiplies
// the default where attention_factor would replace it.
double attention_factor(ConfigReader& in, double factor, double mscale, double mscale_all) {
  double otherwise = yarn_mscale(factor, 1.0);
  if (mscale != 0.0 && mscale_all != 0.0) {
    otherwise = yarn_mscale(factor, mscale) / yarn_mscale(factor, mscale_all);
  }
  return in.number("attention_factor", otherwise * in.number("attn_factor", 1.0));
}

YarnConfig read_yarn(ConfigReader& in, int32_t positions_max) {
  YarnConfig yarn;
  yarn.original_positions = in.whole("original_max_position_embeddings", 1, int64_t{1} << 31);
  yarn.factor = positive(in, "factor", positions_max / yarn.original_positions);
  yarn.beta_fast = in.number("beta_fast", 32.0);
  yarn.beta_slow = in.number("beta_slow", 1.0);
  if (yarn.beta_fast <= 0.0 || yarn.beta_slow <= 0.0) {
    in.fail("beta_fast", "and beta_slow must be positive");
  }
  if (in.has("truncate") && !in.flag("truncate")) in.fail("truncate", "false is not supported");
  yarn.mscale_all_dims = in.number("mscale_all_dim", 0.0);
  yarn.attention_factor =
      attention_factor(in, yarn.factor, in.number("mscale", 0.0), yarn.mscale_all_dims);
  return yarn;
}

RopeScaling read_scaling(ConfigReader& in, int32_t positions_max) {
  const std::string kind = rope_kind(in);
  if (kind == "yarn") return read_yarn(in, positions_max);
  if (kind == "linear") return read_linear(in);
  if (kind == "llama3") return read_llama3(in);
  if (kind != "default") {
    in.fail("type",
            "is " + kind + ", which Fathom does not serve (known: default, linear, llama3, yarn)");
  }
  return {};
}

}  // namespace

RopeConfig read_rope(ConfigReader& in, int32_t dims, int32_t positions_max) {
  RopeConfig rope;
  rope.dims = dims;
  const bool joined = in.has("rope_parameters");
  const char* key = joined ? "rope_parameters" : "rope_scaling";
  if (!joined) rope.theta = in.number("rope_theta");
  if (in.has(key)) {
    const Json& scaling = in.object().at(key);
    if (!scaling.is_object()) {
      in.fail(key, "must be an object");
      return rope;
    }
    ConfigReader inner(scaling, in.file(), std::string(key) + ".");
    if (joined) {
      rope.theta = inner.has("rope_theta") ? inner.number("rope_theta") : in.number("rope_theta");
    }
    rope.scaling = read_scaling(inner, positions_max);
    if (inner.has("partial_rotary_factor") && inner.number("partial_rotary_factor") != 1.0) {
      inner.fail("partial_rotary_factor", "other than 1 is not supported");
    }
    in.adopt(inner.status());
  }
  if (in.has("partial_rotary_factor") && in.number("partial_rotary_factor") != 1.0) {
    in.fail("partial_rotary_factor", "other than 1 is not supported");
  }
  if (rope.theta <= 1.0) in.fail("rope_theta", "must be over 1");
  return rope;
}

}  // namespace fathom
