// Presets, cut and converted.
#include "step_models.h"

#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "ctl/presets.h"

namespace fathom::bench {
namespace {

using nlohmann::json;

constexpr const char* kSlice = "v3-slice";

std::optional<std::string> file_text(const std::string& path) {
  std::ifstream file(path);
  if (!file.good()) return {};
  return std::string(std::istreambuf_iterator<char>(file), {});
}

void cut_to_slice(json& config, int expert_layers) {
  config["num_hidden_layers"] = 1 + expert_layers;
  config["first_k_dense_replace"] = 1;
  config["num_nextn_predict_layers"] = 0;
}

}  // namespace

std::optional<std::string> model_config(const std::string& name) {
  if (name.find(".json") != std::string::npos) return file_text(name);
  const size_t colon = name.find(':');
  if (colon == std::string::npos) return {};
  const std::string model = name.substr(0, colon);
  const std::string format = name.substr(colon + 1);
  const bool slice = model.starts_with(kSlice);
  const auto text = ctl::preset_config(slice ? "v3" : model);
  if (!text || (format != "bf16" && format != "fp8")) return {};
  json config = json::parse(*text, nullptr, false);
  if (config.is_discarded()) return {};
  if (slice) cut_to_slice(config, model == "v3-slice2" ? 2 : 4);
  config.erase("quantization_config");
  if (format == "fp8") {
    config["quantization_config"] = {{"quant_method", "fp8"},
                                     {"fmt", "e4m3"},
                                     {"activation_scheme", "dynamic"},
                                     {"weight_block_size", {128, 128}}};
  }
  return config.dump();
}

}  // namespace fathom::bench
