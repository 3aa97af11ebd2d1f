// The files beside a checkpoint's weights, as every family reads them: config.json with the name of
// its architecture, and generation_config.json. Values; immutable.
#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "fathom/plan.h"
#include "fathom/status.h"
#include "model/config_reader.h"

namespace fathom {

// Which reader and which model text an architecture belongs to.
enum class ModelFamily {
  kDeepseek,  // latent attention, mixture of experts: V2, V2-Lite, V3, R1, V3.1
  kDense,     // grouped attention, dense MLP: Llama, Qwen2, Qwen3
};

struct ConfigFile {
  std::string path;
  Json json;
  std::string architecture;  // "DeepseekV3ForCausalLM"
  ModelFamily family = ModelFamily::kDeepseek;
};

// Errors name the file and the key; an architecture that is not known is refused with the list of
// those that are.
Result<ConfigFile> open_config(const std::string& directory);

// Every end-of-sequence id of config.json and, where there is one, generation_config.json, in this
// order.
Result<std::vector<TokenId>> read_eos(const ConfigFile& config, const std::string& directory);

// Largest width that a config may name.
constexpr int64_t kDimensionMax = int64_t{1} << 24;

}  // namespace fathom
