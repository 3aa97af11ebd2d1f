// What config.json says of a Llama, Qwen2 or Qwen3 checkpoint, checked key by key. A value;
// immutable.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "fathom/plan.h"
#include "fathom/status.h"
#include "model/config_file.h"
#include "model/rope_tables.h"

namespace fathom {

struct DenseConfig {
  std::string architecture;
  int32_t hidden = 0;
  int32_t layers = 0;
  int32_t vocab = 0;
  int32_t positions_max = 0;
  float norm_epsilon = 1e-6F;
  bool tied_embedding = false;

  int32_t heads = 0;
  int32_t kv_heads = 0;
  int32_t head_dims = 0;
  bool qkv_bias = false;  // Qwen2
  bool qk_norm = false;   // Qwen3
  RopeConfig rope;

  int32_t intermediate = 0;

  TokenId bos = 0;
  std::vector<TokenId> eos;  // of config.json and generation_config.json
};

// Reads a config of the family kDense. Errors name the file and the key.
Result<DenseConfig> read_dense_config(const ConfigFile& file, const std::string& directory);
// The same with config.json opened.
Result<DenseConfig> read_dense_config(const std::string& directory);

}  // namespace fathom
