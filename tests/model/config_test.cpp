// config.json and tensor sets: what is read, and how what is wrong is said.
#include <gtest/gtest.h>

#include <cmath>

#include "model/deepseek_tensors.h"
#include "ops/cpu/cpu_ops.h"
#include "support/hash_checkpoint.h"
#include "support/test_config.h"

namespace fathom::testing {
namespace {

Result<DeepseekConfig> read(const Json& config) {
  return read_deepseek_config(ModelDirectory(config).path());
}

// The config of DeepSeek-V3 as published.
Json v3_config() {
  Json c = tiny_config();
  c["hidden_size"] = 7168;
  c["intermediate_size"] = 18432;
  c["moe_intermediate_size"] = 2048;
  c["num_hidden_layers"] = 61;
  c["num_attention_heads"] = 128;
  c["q_lora_rank"] = 1536;
  c["n_routed_experts"] = 256;
  c["num_experts_per_tok"] = 8;
  c["n_group"] = 8;
  c["topk_group"] = 4;
  c["first_k_dense_replace"] = 3;
  c["vocab_size"] = 129280;
  c["max_position_embeddings"] = 163840;
  c["rope_scaling"]["factor"] = 40;
  c["rope_scaling"]["original_max_position_embeddings"] = 4096;
  return c;
}

TEST(DeepseekConfig, ReadsThePublishedV3) {
  const DeepseekConfig c = read(v3_config()).value();
  EXPECT_EQ(c.layers, 61);
  EXPECT_EQ(c.draft_layers, 1);
  EXPECT_EQ(c.q_lora, 1536);
  EXPECT_EQ(c.eos, std::vector<TokenId>{1});
  EXPECT_NEAR(c.softmax_scale, 0.1352337789, 1e-8);
  EXPECT_FALSE(c.is_moe(2));
  EXPECT_TRUE(c.is_moe(3));
  // Counted from the published shapes; the routers' biases included.
  EXPECT_EQ(parameter_count(c), 671026419200);
}

// The configs of DeepSeek-V2 and V2-Lite as published.
Json v2_config() {
  Json c = v3_config();
  c["architectures"] = Json::array({"DeepseekV2ForCausalLM"});
  c["hidden_size"] = 5120;
  c["intermediate_size"] = 12288;
  c["moe_intermediate_size"] = 1536;
  c["num_hidden_layers"] = 60;
  c["n_routed_experts"] = 160;
  c["n_shared_experts"] = 2;
  c["num_experts_per_tok"] = 6;
  c["topk_group"] = 3;
  c["topk_method"] = "group_limited_greedy";
  c["scoring_func"] = "softmax";
  c["norm_topk_prob"] = false;
  c["routed_scaling_factor"] = 16.0;
  c["first_k_dense_replace"] = 1;
  c["vocab_size"] = 102400;
  c["rope_scaling"]["mscale"] = 0.707;
  c["rope_scaling"]["mscale_all_dim"] = 0.707;
  return c;
}

Json v2_lite_config() {
  Json c = v2_config();
  c["hidden_size"] = 2048;
  c["intermediate_size"] = 10944;
  c["moe_intermediate_size"] = 1408;
  c["num_hidden_layers"] = 27;
  c["num_attention_heads"] = 16;
  c["q_lora_rank"] = nullptr;
  c["n_routed_experts"] = 64;
  c["n_group"] = 1;
  c["topk_group"] = 1;
  c["topk_method"] = "greedy";
  c["routed_scaling_factor"] = 1.0;
  return c;
}

TEST(DeepseekConfig, ReadsThePublishedV2) {
  const DeepseekConfig c = read(v2_config()).value();
  EXPECT_EQ(c.score, ScoreFunction::kSoftmax);
  EXPECT_EQ(c.group_score, GroupScore::kMax);
  EXPECT_EQ(c.groups, 8);
  EXPECT_EQ(c.groups_per_token, 3);
  EXPECT_FALSE(c.normalize);
  EXPECT_FALSE(c.correction_bias);
  EXPECT_EQ(c.routed_scale, 16.0F);
  EXPECT_EQ(c.draft_layers, 0);  // V2 has none, whatever the key says
  EXPECT_NEAR(c.softmax_scale, 0.1147213868, 1e-8);
  EXPECT_EQ(parameter_count(c), 235741434880);
}

TEST(DeepseekConfig, ReadsThePublishedV2Lite) {
  Json config = v2_lite_config();
  const DeepseekConfig c = read(config).value();
  EXPECT_FALSE(c.q_lora);
  EXPECT_NEAR(c.softmax_scale, 0.1147213868, 1e-8);
  EXPECT_EQ(parameter_count(c), 15706484224);
  // Greedy routing knows no groups; the method is greedy where nothing is said.
  config["n_group"] = 8;
  config["topk_group"] = 3;
  config.erase("topk_method");
  EXPECT_EQ(read(config).value().groups, 1);
}

TEST(DeepseekConfig, RefusesRoutingThatV2DoesNotHave) {
  const std::pair<std::pair<const char*, Json>, const char*> wrongs[] = {
      {{"topk_method", "noaux_tc"}, "topk_method is noaux_tc, must be greedy or group_limited"},
      {{"scoring_func", "sigmoid"}, "scoring_func is sigmoid, must be softmax"},
      {{"norm_topk_prob", true}, "norm_topk_prob true is not supported for DeepseekV2"}};
  for (const auto& [key_value, says] : wrongs) {
    Json config = v2_config();
    config[key_value.first] = key_value.second;
    const Status status = read(config).status();
    EXPECT_NE(status.message().find(says), std::string::npos) << status.message();
  }
}

TEST(DeepseekConfig, TakesRopeParametersAndListsOfEos) {
  Json c = tiny_config();
  Json rope = c["rope_scaling"];
  rope.erase("type");
  rope["rope_type"] = "yarn";
  rope["rope_theta"] = 10000.0;
  c.erase("rope_scaling");
  c.erase("rope_theta");
  c.erase("torch_dtype");
  c["dtype"] = "bfloat16";
  c["rope_parameters"] = rope;
  c["eos_token_id"] = Json::array({1, 7});
  const ModelDirectory directory(c);
  directory.write("generation_config.json", R"({"eos_token_id": [7, 9]})");
  const DeepseekConfig now = read_deepseek_config(directory.path()).value();
  EXPECT_EQ(now.eos, (std::vector<TokenId>{1, 7, 9}));
  const DeepseekConfig before = read(tiny_config()).value();
  EXPECT_EQ(rope_frequencies(now.rope), rope_frequencies(before.rope));
  EXPECT_EQ(now.softmax_scale, before.softmax_scale);
}

TEST(DeepseekConfig, GroupsMayBeNull) {
  Json c = tiny_config();
  c["n_group"] = nullptr;
  c["topk_group"] = nullptr;
  EXPECT_EQ(read(c).value().groups, 1);
}

struct Wrong {
  const char* key;
  Json value;
  const char* says;
};

TEST(DeepseekConfig, NamesFileAndKeyOfWhatIsWrong) {
  const Wrong wrongs[] = {
      {"hidden_size", nullptr, "config.json: hidden_size is missing"},
      {"hidden_size", "256", "hidden_size must be an integer"},
      {"hidden_size", -1, "hidden_size is -1, must be from 1"},
      {"num_hidden_layers", 18446744073709551615U, "num_hidden_layers is 184"},
      {"rms_norm_eps", nullptr, "rms_norm_eps is missing"},
      {"hidden_act", "gelu", "hidden_act is gelu"},
      {"num_experts_per_tok", 17, "num_experts_per_tok is 17, must be from 1 to 16"},
      {"n_group", 3, "n_group does not divide"},
      {"topk_group", 5, "topk_group is 5"},
      {"scoring_func", "softmax", "scoring_func is softmax"},
      {"attention_bias", true, "attention_bias true is not supported"},
      {"rope_scaling", Json{{"type", "dynamic"}, {"factor", 2}}, "rope_scaling.type is dynamic"},
      {"rope_scaling", Json{{"type", "yarn"}, {"factor", 2}},
       "rope_scaling.original_max_position_embeddings is missing"},
      {"rope_scaling", 4, "rope_scaling must be an object"},
      {"eos_token_id", "one", "eos_token_id must be a token id"},
      {"architectures", Json::array({"MixtralForCausalLM"}),
       "MixtralForCausalLM, which Fathom does not serve (known: DeepseekV2ForCausalLM, "
       "DeepseekV3ForCausalLM, LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM)"},
      {"architectures", Json::array({"LlamaForCausalLM"}), "is not of DeepSeek-V2's kind"},
      {"architectures", nullptr, "architectures must be a list"},
  };
  for (const Wrong& wrong : wrongs) {
    Json c = tiny_config();
    c[wrong.key] = wrong.value;
    const auto result = read(c);
    ASSERT_FALSE(result.is_ok()) << wrong.says;
    EXPECT_NE(result.status().message().find(wrong.says), std::string::npos)
        << result.status().message();
    EXPECT_NE(result.status().message().find("config.json"), std::string::npos);
  }
}

TEST(DeepseekConfig, RefusesWhatIsNotThereOrNotJson) {
  EXPECT_FALSE(read_deepseek_config("/nonexistent").is_ok());
  const ModelDirectory directory(tiny_config());
  directory.write("config.json", "{\"hidden_size\": ");
  EXPECT_FALSE(read_deepseek_config(directory.path()).is_ok());
  directory.write("config.json", "[]");
  EXPECT_FALSE(read_model_info(directory.path()).is_ok());
}

Result<std::unique_ptr<Model>> load(const HashCheckpoint& checkpoint, const Json& config) {
  const ModelDirectory directory(config);
  const auto ops = make_cpu_ops({});
  ModelOptions options;
  options.tokens_max = 16;
  return load_model(directory.path(), checkpoint, *ops, {}, options);
}

TEST(TensorSet, MissingAndMisshapenTensorsAreNamed) {
  const DeepseekConfig config = read(tiny_config()).value();
  HashCheckpoint checkpoint(config, HashFormat::kBF16);
  EXPECT_TRUE(load(checkpoint, tiny_config()).is_ok());
  const std::string expert = "model.layers.1.mlp.experts.9.up_proj.weight";
  checkpoint.reshape(expert, 160, 128);
  auto status = load(checkpoint, tiny_config()).status();
  EXPECT_EQ(status.code(), Code::kDataLoss);
  EXPECT_EQ(status.subject(), expert);
  EXPECT_NE(status.message().find("[160, 128]"), std::string::npos);
  checkpoint.erase(expert);
  status = load(checkpoint, tiny_config()).status();
  EXPECT_EQ(status.code(), Code::kNotFound);
  EXPECT_EQ(status.subject(), expert);
}

TEST(TensorSet, AnFp8WeightWithoutItsScalesIsRefused) {
  HashCheckpoint checkpoint(read(tiny_config()).value(), HashFormat::kFp8);
  checkpoint.erase("model.layers.0.mlp.down_proj.weight_scale_inv");
  const Status status = load(checkpoint, tiny_config()).status();
  EXPECT_EQ(status.subject(), "model.layers.0.mlp.down_proj.weight");
}

TEST(TensorSet, DraftLayerIsAskedForOnlyWhenItIsUsed) {
  HashCheckpoint checkpoint(read(tiny_config()).value(), HashFormat::kBF16);
  checkpoint.erase("model.layers.3.eh_proj.weight");
  EXPECT_TRUE(load(checkpoint, tiny_config()).is_ok());
  const ModelDirectory directory(tiny_config());
  const auto ops = make_cpu_ops({});
  ModelOptions options;
  options.tokens_max = 16;
  options.draft_layers = 1;
  EXPECT_EQ(load_model(directory.path(), checkpoint, *ops, {}, options).status().subject(),
            "model.layers.3.eh_proj.weight");
}

// models.md 2.2.
TEST(RopeTables, HaveTheFrequenciesOfV3) {
  const std::vector<double> f = rope_frequencies(read(v3_config()).value().rope);
  const std::pair<int, double> expected[] = {{0, 1.0},
                                             {8, 0.1},
                                             {10, 0.0562341325},
                                             {12, 0.0268793601},
                                             {14, 0.0124479559},
                                             {16, 0.0055},
                                             {20, 0.000790569415},
                                             {24, 2.5e-05},
                                             {31, 3.33380358e-06}};
  for (const auto& [i, value] : expected) EXPECT_NEAR(f[i] / value, 1.0, 1e-8) << i;
}

TEST(RopeTables, HaveTheFrequenciesOfOtherYarns) {
  RopeConfig qwen{1e6, 128, YarnConfig{4.0, 32768.0, 32.0, 1.0, 1.0}};
  const std::vector<double> f = rope_frequencies(qwen);
  const std::pair<int, double> expected[] = {{0, 1.0},
                                             {24, 0.00537532149},
                                             {32, 0.000602941176},
                                             {40, 4.44569853e-05},
                                             {48, 7.90569415e-06},
                                             {63, 3.1023444e-07}};
  for (const auto& [i, value] : expected) EXPECT_NEAR(f[i] / value, 1.0, 1e-8) << i;
  EXPECT_NEAR(yarn_mscale(40.0, 0.707), 1.2608037774, 1e-9);
}

TEST(RopeTables, RotateByPositionTimesFrequency) {
  const RopeConfig plain{10000.0, 64, {}};
  const RopeTables tables = make_rope_tables(plain, 50);
  for (int p = 0; p < 50; ++p) {
    for (int i = 0; i < 32; ++i) {
      const double angle = p * std::pow(10000.0, -i / 32.0);
      EXPECT_NEAR(tables.cosines.view.as<float>()[p * 32 + i], std::cos(angle), 4e-6);
      EXPECT_NEAR(tables.sines.view.as<float>()[p * 32 + i], std::sin(angle), 4e-6);
    }
  }
}

}  // namespace
}  // namespace fathom::testing
