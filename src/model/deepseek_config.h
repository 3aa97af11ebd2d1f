// What config.json says of a DeepSeek-V2 or V3 checkpoint, checked key by key. The generations
// differ in their routing alone. A value; immutable.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "fathom/model.h"
#include "fathom/ops.h"
#include "fathom/status.h"
#include "model/config_file.h"
#include "model/rope_tables.h"

namespace fathom {

struct DeepseekConfig {
  std::string architecture;
  int32_t hidden = 0;
  int32_t layers = 0;
  int32_t draft_layers = 0;  // num_nextn_predict_layers, stored after the last layer
  int32_t vocab = 0;
  int32_t positions_max = 0;
  float norm_epsilon = 1e-6F;
  bool tied_embedding = false;

  int32_t heads = 0;
  std::optional<int32_t> q_lora;  // empty: one q_proj
  int32_t kv_lora = 0;
  int32_t nope_dims = 0;
  int32_t rope_dims = 0;
  int32_t value_dims = 0;
  RopeConfig rope;
  float softmax_scale = 0.0F;  // YaRN's mscale squared included

  int32_t intermediate = 0;  // of dense layers
  int32_t dense_layers = 0;  // layers before the first mixture of experts
  int32_t moe_layer_freq = 1;
  int32_t moe_intermediate = 0;
  int32_t experts = 0;
  int32_t shared_experts = 0;
  int32_t experts_per_token = 0;
  int32_t groups = 1;
  int32_t groups_per_token = 1;
  ScoreFunction score = ScoreFunction::kSigmoid;
  GroupScore group_score = GroupScore::kTopTwoSum;
  bool correction_bias = true;  // added to scores for the choice of experts
  bool normalize = true;
  float routed_scale = 1.0F;

  TokenId bos = 0;
  std::vector<TokenId> eos;  // of config.json and generation_config.json

  bool is_moe(int32_t layer) const { return layer >= dense_layers && layer % moe_layer_freq == 0; }
  int32_t head_dims() const { return nope_dims + rope_dims; }
};

// Reads a config of the family kDeepseek. Errors name the file and the key.
Result<DeepseekConfig> read_deepseek_config(const ConfigFile& file, const std::string& directory);
// The same with config.json opened.
Result<DeepseekConfig> read_deepseek_config(const std::string& directory);

}  // namespace fathom
