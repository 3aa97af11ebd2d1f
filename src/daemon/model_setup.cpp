// Finding and reading the text side of a model.
#include "daemon/model_setup.h"

#include <algorithm>
#include <filesystem>

#include "base/file.h"
#include "base/json.h"
#include "fathom/model.h"
#include "weights/quantization.h"

namespace fathom {
namespace {

constexpr size_t kConfigBytesMax = size_t{4} << 20;

// generation_config.json's sampling; a file that is absent leaves the defaults.
Result<api::SamplingDefaults> read_sampling_defaults(const std::string& directory) {
  api::SamplingDefaults defaults;
  const std::string path = directory + "/generation_config.json";
  if (!std::filesystem::exists(path)) return defaults;
  FATHOM_ASSIGN(const std::string text, read_file(path, kConfigBytesMax));
  auto json = parse_json(text);
  if (!json.is_ok()) return invalid_argument(path + " is " + json.status().message());
  const auto number = [&](const char* key, double fallback) {
    const auto at = json->find(key);
    return at != json->end() && at->is_number() ? at->get<double>() : fallback;
  };
  defaults.temperature = static_cast<float>(number("temperature", 1.0));
  defaults.top_p = static_cast<float>(number("top_p", 1.0));
  defaults.top_k = static_cast<int32_t>(number("top_k", 0));
  if (const auto sample = json->find("do_sample"); sample != json->end() && *sample == false) {
    defaults.temperature = 0.0F;
  }
  return defaults;
}

Result<std::optional<text::ChatFormat>> choose_chat_format(const Config& config,
                                                           const text::Tokenizer& tokenizer) {
  if (config.model.chat_format != "auto") {
    FATHOM_ASSIGN(const text::ChatFormat format,
                  text::chat_format_by_name(config.model.chat_format));
    return std::optional(format);
  }
  if (tokenizer.chat_template().empty()) return std::optional<text::ChatFormat>();
  auto format = text::recognise_chat_format(tokenizer.chat_template());
  if (!format.is_ok()) {
    return invalid_argument("the model's chat template is not known; set --chat-format: " +
                            format.status().message())
        .about("chat_format");
  }
  return std::optional(*format);
}

// --quantization states what the checkpoint must be; it converts nothing.
Status check_quantization(const Config& config, const std::string& directory) {
  if (config.model.quantization == QuantizationChoice::kAuto) return Status::ok();
  const std::string file = directory + "/config.json";
  FATHOM_ASSIGN(const std::string text, read_file(file, kConfigBytesMax));
  FATHOM_ASSIGN(const QuantizationConfig found, parse_quantization_config(text, file));
  const bool wanted = config.model.quantization == QuantizationChoice::kFp8;
  if (found.fp8_block == wanted) return Status::ok();
  return invalid_argument("--quantization " + std::string(wanted ? "fp8" : "none") +
                          ", but the checkpoint is " + (found.fp8_block ? "fp8" : "not quantized"))
      .about("quantization");
}

}  // namespace

Result<std::string> find_model_directory(const Config& config) {
  if (!config.model.model.empty()) {
    if (std::filesystem::exists(config.model.model + "/config.json")) return config.model.model;
    return not_found("--model " + config.model.model +
                     " is not a model directory: it has no config.json")
        .about("model");
  }
  std::error_code error;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error);
  const std::filesystem::path bin = program.parent_path();
  // Installed: <prefix>/bin beside <prefix>/share. Built: build/<preset>/bin in the source tree.
  for (const std::filesystem::path& place :
       {bin / "../share/fathom/demo-model", bin / "../../../deploy/demo-model"}) {
    if (std::filesystem::exists(place / "config.json", error))
      return place.lexically_normal().string();
  }
  return not_found("no --model is set and the demo model is not beside " + program.string())
      .about("model");
}

Result<api::ServedModel> read_served_model(const Config& config, const std::string& directory,
                                           const Clock& clock) {
  api::ServedModel model;
  model.name = config.model.served_model_name;
  if (model.name.empty()) {
    std::filesystem::path path = std::filesystem::path(directory).lexically_normal();
    if (path.filename().empty()) path = path.parent_path();
    model.name = path.filename().string();
  }
  FATHOM_RETURN_IF_ERROR(check_quantization(config, directory));
  model.created_unix_s = clock.unix_us() / 1'000'000;
  FATHOM_ASSIGN(const ModelInfo info, read_model_info(directory));
  FATHOM_ASSIGN(model.tokenizer, text::Tokenizer::load(directory));
  FATHOM_ASSIGN(model.chat_format, choose_chat_format(config, *model.tokenizer));
  FATHOM_ASSIGN(model.defaults, read_sampling_defaults(directory));
  model.vocab = std::min(info.vocab, model.tokenizer->vocab_size());
  model.max_model_len = info.positions_max;
  if (config.model.max_model_len) {
    if (*config.model.max_model_len > info.positions_max) {
      return invalid_argument("--max-model-len " + std::to_string(*config.model.max_model_len) +
                              " is more than the model's " + std::to_string(info.positions_max) +
                              " positions")
          .about("max_model_len");
    }
    model.max_model_len = static_cast<int32_t>(*config.model.max_model_len);
  }
  return model;
}

}  // namespace fathom
