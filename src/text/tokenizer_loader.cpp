// A model's files -> TokenizerParts: parsing, and what the configuration files say about special
// tokens.
#include "text/tokenizer_loader.h"

#include <algorithm>

#include "base/file.h"
#include "text/json_document.h"

namespace fathom::text {
namespace {

constexpr std::size_t kMaxFileBytes = 256ull << 20;

Result<JsonDocument> parse_file(const std::string& text, const std::string& file) {
  JsonDocument document;
  if (text.empty()) return document;
  Result<Json> root = parse_json(text);
  if (!root.is_ok()) return invalid_argument(file + ": " + root.status().message()).about(file);
  document.root = std::move(root).value();
  if (!document.root.is_object())
    return invalid_argument(file + " is not a JSON object").about(file);
  return document;
}

// A special token of tokenizer_config.json is a string, an object with a content, or null.
std::string token_content(const Json& config, const char* key) {
  const Json& value = member(config, key);
  return value.is_string() ? value.get<std::string>() : string_or_empty(value, "content");
}

std::optional<TokenId> id_of_content(const TokenizerParts& parts, const std::string& content) {
  if (content.empty()) return std::nullopt;
  for (const AddedToken& token : parts.added) {
    if (token.content == content) return token.id;
  }
  const auto found = std::find(parts.bytes.begin(), parts.bytes.end(), content);
  if (found == parts.bytes.end()) return std::nullopt;
  return static_cast<TokenId>(found - parts.bytes.begin());
}

// An id, or the ids of a list, appended to `out`. Ids past the vocabulary cannot be sampled and are
// left out.
Status append_ids(const Json& value, const std::string& key, const TokenizerParts& parts,
                  std::vector<TokenId>& out) {
  if (value.is_null()) return Status::ok();
  const Json list = value.is_array() ? value : Json::array({value});
  for (const Json& id : list) {
    if (!id.is_number_integer())
      return invalid_argument(key + " must be an id or a list of ids").about(key);
    if (id.is_number_unsigned() && id.get<std::uint64_t>() < parts.bytes.size()) {
      out.push_back(id.get<TokenId>());
    }
  }
  return Status::ok();
}

// Whether tokenizer.json's post_processor puts a special token before a single text.
bool template_begins_with_special(const Json& processor) {
  if (string_or_empty(processor, "type") == "Sequence") {
    const Json& list = member(processor, "processors");
    return std::any_of(list.begin(), list.end(), template_begins_with_special);
  }
  if (string_or_empty(processor, "type") != "TemplateProcessing") return false;
  const Json& single = member(processor, "single");
  return single.is_array() && !single.empty() && !member(single[0], "SpecialToken").is_null();
}

// chat_template is a string, or a list of {name, template} of which "default" counts.
std::string config_template(const Json& config) {
  const Json& value = member(config, "chat_template");
  if (!value.is_array()) return string_or_empty(config, "chat_template");
  for (const Json& entry : value) {
    if (string_or_empty(entry, "name") == "default") return string_or_empty(entry, "template");
  }
  return {};
}

Status read_special_tokens(const JsonDocument& tokenizer, const TokenizerFiles& files,
                           TokenizerParts& parts) {
  FATHOM_ASSIGN(const JsonDocument config,
                parse_file(files.tokenizer_config_json, "tokenizer_config.json"));
  FATHOM_ASSIGN(const JsonDocument generation,
                parse_file(files.generation_config_json, "generation_config.json"));
  FATHOM_ASSIGN(const JsonDocument model, parse_file(files.config_json, "config.json"));
  parts.bos = id_of_content(parts, token_content(config.root, "bos_token"));
  parts.eos = id_of_content(parts, token_content(config.root, "eos_token"));
  std::vector<TokenId> model_bos;
  FATHOM_RETURN_IF_ERROR(append_ids(member(model.root, "bos_token_id"), "config.json: bos_token_id",
                                    parts, model_bos));
  if (!parts.bos && !model_bos.empty()) parts.bos = model_bos.front();
  std::vector<TokenId>& stops = parts.stop_ids;
  if (parts.eos) stops.push_back(*parts.eos);
  FATHOM_RETURN_IF_ERROR(append_ids(member(generation.root, "eos_token_id"),
                                    "generation_config.json: eos_token_id", parts, stops));
  FATHOM_RETURN_IF_ERROR(
      append_ids(member(model.root, "eos_token_id"), "config.json: eos_token_id", parts, stops));
  std::sort(stops.begin(), stops.end());
  stops.erase(std::unique(stops.begin(), stops.end()), stops.end());
  const bool by_template = template_begins_with_special(member(tokenizer.root, "post_processor"));
  parts.adds_bos = parts.bos.has_value() && flag(config.root, "add_bos_token", by_template);
  parts.chat_template = config_template(config.root);
  if (parts.chat_template.empty()) parts.chat_template = files.chat_template;
  return Status::ok();
}

Result<std::string> read_optional(const std::filesystem::path& path) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return std::string();
  return read_file(path.string(), kMaxFileBytes);
}

}  // namespace

Result<TokenizerParts> read_tokenizer_parts(const TokenizerFiles& files) {
  TokenizerParts parts;
  FATHOM_ASSIGN(const JsonDocument tokenizer, parse_file(files.tokenizer_json, "tokenizer.json"));
  FATHOM_RETURN_IF_ERROR(read_model(tokenizer, parts));
  FATHOM_RETURN_IF_ERROR(read_pipeline(tokenizer, parts));
  FATHOM_RETURN_IF_ERROR(read_special_tokens(tokenizer, files, parts));
  return parts;
}

Result<TokenizerFiles> read_tokenizer_files(const std::filesystem::path& model_dir) {
  TokenizerFiles files;
  FATHOM_ASSIGN(files.tokenizer_json,
                read_file((model_dir / "tokenizer.json").string(), kMaxFileBytes));
  FATHOM_ASSIGN(files.tokenizer_config_json, read_optional(model_dir / "tokenizer_config.json"));
  FATHOM_ASSIGN(files.generation_config_json, read_optional(model_dir / "generation_config.json"));
  FATHOM_ASSIGN(files.config_json, read_optional(model_dir / "config.json"));
  FATHOM_ASSIGN(files.chat_template, read_optional(model_dir / "chat_template.jinja"));
  return files;
}

}  // namespace fathom::text
