// Opening config.json and generation_config.json.
#include "model/config_file.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "base/file.h"

namespace fathom {
namespace {

constexpr size_t kConfigBytesMax = size_t{4} << 20;

struct Architecture {
  std::string_view name;
  ModelFamily family;
};
constexpr std::array<Architecture, 5> kArchitectures = {
    {{"DeepseekV2ForCausalLM", ModelFamily::kDeepseek},
     {"DeepseekV3ForCausalLM", ModelFamily::kDeepseek},
     {"LlamaForCausalLM", ModelFamily::kDense},
     {"Qwen2ForCausalLM", ModelFamily::kDense},
     {"Qwen3ForCausalLM", ModelFamily::kDense}}};

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
  for (const Architecture& a : kArchitectures) {
    list += (list.empty() ? "" : ", ") + std::string(a.name);
  }
  return list;
}

void read_architecture(ConfigReader& in, ConfigFile& out) {
  const Json& object = in.object();
  if (!in.has("architectures") || !object.at("architectures").is_array() ||
      object.at("architectures").size() != 1 || !object.at("architectures")[0].is_string()) {
    in.fail("architectures", "must be a list of one name");
    return;
  }
  out.architecture = object.at("architectures")[0].get<std::string>();
  const auto* found =
      std::find_if(kArchitectures.begin(), kArchitectures.end(),
                   [&](const Architecture& known) { return out.architecture == known.name; });
  if (found == kArchitectures.end()) {
    in.fail("architectures", "is " + out.architecture + ", which Fathom does not serve (known: " +
                                 known_architectures() + ")");
    return;
  }
  out.family = found->family;
}

void add_ids(const std::vector<int32_t>& from, std::vector<TokenId>& to) {
  for (const int32_t id : from) {
    if (std::find(to.begin(), to.end(), id) == to.end()) to.push_back(id);
  }
}

}  // namespace

Result<ConfigFile> open_config(const std::string& directory) {
  ConfigFile file;
  file.path = directory + "/config.json";
  FATHOM_ASSIGN(file.json, read_object(file.path));
  ConfigReader in(file.json, file.path);
  read_architecture(in, file);
  FATHOM_RETURN_IF_ERROR(in.status());
  return file;
}

Result<std::vector<TokenId>> read_eos(const ConfigFile& config, const std::string& directory) {
  std::vector<TokenId> eos;
  ConfigReader in(config.json, config.path);
  add_ids(in.ids("eos_token_id"), eos);
  FATHOM_RETURN_IF_ERROR(in.status());
  const std::string generation = directory + "/generation_config.json";
  if (!open_for_read(generation).is_ok()) return eos;
  FATHOM_ASSIGN(const Json extra, read_object(generation));
  ConfigReader more(extra, generation);
  add_ids(more.ids("eos_token_id"), eos);
  FATHOM_RETURN_IF_ERROR(more.status());
  return eos;
}

}  // namespace fathom
