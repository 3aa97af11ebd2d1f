// config.json of Llama, Qwen2 and Qwen3: what is read, how what is wrong is said, and how the heads
// are dealt to ranks.
#include <gtest/gtest.h>

#include <cmath>

#include "model/blocks/gqa.h"
#include "model/dense_model.h"
#include "model/dense_tensors.h"
#include "support/test_config.h"

namespace fathom::testing {
namespace {

Result<DenseConfig> read(const Json& config) {
  return read_dense_config(ModelDirectory(config).path());
}

Json dense(const char* architecture, int layers, int hidden, int width, int heads, int kv_heads,
           int vocab) {
  return Json{{"architectures", {architecture}},
              {"num_hidden_layers", layers},
              {"hidden_size", hidden},
              {"intermediate_size", width},
              {"num_attention_heads", heads},
              {"num_key_value_heads", kv_heads},
              {"vocab_size", vocab},
              {"max_position_embeddings", 131072},
              {"rms_norm_eps", 1e-6},
              {"hidden_act", "silu"},
              {"rope_theta", 1e6},
              {"bos_token_id", 5},
              {"eos_token_id", 6}};
}

int64_t parameters(const Json& config) { return model_info(read(config).value()).parameters; }

// models.md 8.5 and 1.1.
TEST(DenseConfig, CountsThePublishedParameters) {
  EXPECT_EQ(parameters(dense("LlamaForCausalLM", 30, 4096, 11008, 32, 32, 102400)), 6910365696);
  EXPECT_EQ(parameters(dense("LlamaForCausalLM", 62, 7168, 19200, 56, 8, 32256)), 33342991360);
  EXPECT_EQ(parameters(dense("LlamaForCausalLM", 80, 8192, 28672, 64, 8, 128256)), 70553706496);
  EXPECT_EQ(parameters(dense("Qwen2ForCausalLM", 28, 3584, 18944, 28, 4, 152064)), 7615616512);
  Json qwen3 = dense("Qwen3ForCausalLM", 36, 4096, 12288, 32, 8, 151936);
  qwen3["head_dim"] = 128;
  EXPECT_NEAR(static_cast<double>(parameters(qwen3)), 8.191e9, 0.5e6);
}

TEST(DenseConfig, ReadsWhatTheFamiliesDifferIn) {
  Json config = dense("Qwen2ForCausalLM", 2, 256, 320, 2, 1, 512);
  config["sliding_window"] = 4096;  // with use_sliding_window false it means nothing
  config["use_sliding_window"] = false;
  const DenseConfig qwen2 = read(config).value();
  EXPECT_TRUE(qwen2.qkv_bias);
  EXPECT_FALSE(qwen2.qk_norm);
  EXPECT_EQ(qwen2.head_dims, 128);
  EXPECT_EQ(qwen2.bos, 5);
  EXPECT_EQ(qwen2.eos, std::vector<TokenId>{6});
  config["architectures"] = Json::array({"Qwen3ForCausalLM"});
  config["head_dim"] = 64;
  const DenseConfig qwen3 = read(config).value();
  EXPECT_FALSE(qwen3.qkv_bias);
  EXPECT_TRUE(qwen3.qk_norm);
  EXPECT_EQ(qwen3.head_dims, 64);
  config["architectures"] = Json::array({"LlamaForCausalLM"});
  config.erase("num_key_value_heads");
  EXPECT_EQ(read(config).value().kv_heads, 2);
}

// DeepSeek-R1-0528-Qwen3-8B: attn_factor undoes YaRN's own factor of 0.1 ln 4 + 1.
TEST(DenseConfig, AttnFactorMultipliesWhereAttentionFactorReplaces) {
  Json config = dense("Qwen3ForCausalLM", 2, 256, 320, 2, 1, 512);
  config["rope_scaling"] = {
      {"rope_type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 32768}};
  const auto factor = [](const Json& c) {
    return std::get<YarnConfig>(read(c).value().rope.scaling).attention_factor;
  };
  EXPECT_NEAR(factor(config), 1.138629436, 1e-9);
  config["rope_scaling"]["attn_factor"] = 0.8782488562869419;
  EXPECT_NEAR(factor(config), 1.0, 1e-12);
  config["rope_scaling"]["attention_factor"] = 1.25;
  EXPECT_EQ(factor(config), 1.25);
}

TEST(DenseConfig, NamesTheKeyOfWhatIsWrong) {
  const std::tuple<const char*, Json, const char*> wrongs[] = {
      {"num_key_value_heads", 3, "num_key_value_heads does not divide num_attention_heads"},
      {"head_dim", 65, "head_dim must be even"},
      {"hidden_size", 255, "does not divide hidden_size"},
      {"attention_bias", true, "attention_bias true is not supported"},
      {"mlp_bias", true, "mlp_bias true is not supported"},
      {"use_sliding_window", true, "use_sliding_window true is not supported"},
      {"partial_rotary_factor", 0.5, "partial_rotary_factor other than 1"},
      {"hidden_act", "gelu", "hidden_act is gelu"},
      {"rope_theta", nullptr, "rope_theta is missing"},
      {"rope_scaling", Json{{"rope_type", "longrope"}}, "rope_scaling.type is longrope"},
      {"rope_scaling", Json{{"rope_type", "linear"}}, "rope_scaling.factor is missing"},
      {"rope_scaling", Json{{"rope_type", "linear"}, {"factor", 0}}, "factor must be positive"},
      {"rope_scaling",
       Json{{"rope_type", "llama3"},
            {"factor", 8.0},
            {"low_freq_factor", 4.0},
            {"high_freq_factor", 4.0},
            {"original_max_position_embeddings", 8192}},
       "high_freq_factor must be over"}};
  for (const auto& [key, value, says] : wrongs) {
    Json config = dense("LlamaForCausalLM", 2, 256, 320, 4, 2, 512);
    config[key] = value;
    const auto result = read(config);
    ASSERT_FALSE(result.is_ok()) << says;
    EXPECT_NE(result.status().message().find(says), std::string::npos) << result.status().message();
  }
}

// Llama 3.1: fast pairs stay, slow ones turn eight times slower.
TEST(RopeTables, Llama3SlowsLowFrequencies) {
  const RopeConfig plain{500000.0, 128, {}};
  const RopeConfig scaled{500000.0, 128, Llama3Rope{8.0, 1.0, 4.0, 8192.0}};
  const std::vector<double> before = rope_frequencies(plain);
  const std::vector<double> after = rope_frequencies(scaled);
  for (size_t i = 0; i < before.size(); ++i) {
    const double turns = 8192.0 * before[i] / (2.0 * M_PI);
    const double keep = (turns - 1.0) / 3.0;
    const double expected = turns > 4.0   ? before[i]
                            : turns < 1.0 ? before[i] / 8.0
                                          : (1.0 - keep) * before[i] / 8.0 + keep * before[i];
    EXPECT_NEAR(after[i] / expected, 1.0, 1e-12) << i;
  }
  EXPECT_EQ(rope_frequencies({1e5, 128, LinearRope{4.0}})[3],
            rope_frequencies({1e5, 128, {}})[3] / 4.0);
}

TEST(KeyHeads, AreSharedOutOrHeldByTheRanksThatReadThem) {
  DenseConfig config;
  config.heads = 8;
  config.kv_heads = 2;
  const auto at = [&](int32_t rank, int32_t ranks) {
    const Span span = kv_heads_of(config, rank, ranks);
    return std::pair(span.begin, span.end);
  };
  EXPECT_EQ(at(0, 1), (std::pair<int64_t, int64_t>(0, 2)));
  EXPECT_EQ(at(1, 2), (std::pair<int64_t, int64_t>(1, 2)));
  EXPECT_EQ(at(1, 4), (std::pair<int64_t, int64_t>(0, 1)));
  EXPECT_EQ(at(2, 4), (std::pair<int64_t, int64_t>(1, 2)));
  EXPECT_EQ(at(7, 8), (std::pair<int64_t, int64_t>(1, 2)));
}

}  // namespace
}  // namespace fathom::testing
