// tokenizer.json's normalizer, pre_tokenizer and decoder.
#include "text/json_document.h"
#include "text/tokenizer_loader.h"

namespace fathom::text {
namespace {

// What ByteLevel splits by when its use_regex is on (GPT-2's pattern).
const char* const kGpt2Pattern =
    R"re('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)re";

using Kind = PreTokenizerStep::Kind;

void add_split(std::string pattern, TokenizerParts& parts) {
  parts.steps.push_back({Kind::kSplit, std::move(pattern)});
}

Status unsupported(const std::string& key, const std::string& what) {
  return unimplemented("tokenizer.json: " + key + " " + what + " is not supported").about(key);
}

// The elements of a Sequence, or the value itself as the only element; none for null.
std::vector<const Json*> flatten(const Json& value, const char* list_key) {
  if (value.is_null()) return {};
  if (string_or_empty(value, "type") != "Sequence") return {&value};
  std::vector<const Json*> elements;
  for (const Json& element : member(value, list_key)) elements.push_back(&element);
  return elements;
}

Status read_normalizer(const Json& value, TokenizerParts& parts) {
  for (const Json* element : flatten(value, "normalizers")) {
    const std::string& type = string_or_empty(*element, "type");
    if (type != "NFC") return unsupported("normalizer", "\"" + type + "\"");
    parts.nfc = true;
  }
  return Status::ok();
}

std::string quote_literal(const std::string& text) {
  std::string quoted;
  for (const char c : text) {
    const bool plain = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
                       static_cast<unsigned char>(c) >= 0x80 || c == '\n' || c == '\r';
    if (!plain) quoted.push_back('\\');
    quoted.push_back(c);
  }
  return quoted;
}

Status read_split(const Json& step, TokenizerParts& parts) {
  const std::string& behavior = string_or_empty(step, "behavior");
  if (behavior != "Isolated")
    return unsupported("pre_tokenizer Split.behavior", "\"" + behavior + "\"");
  if (flag(step, "invert")) return unsupported("pre_tokenizer Split.invert", "true");
  const Json& pattern = member(step, "pattern");
  const std::string& regex = string_or_empty(pattern, "Regex");
  const std::string& literal = string_or_empty(pattern, "String");
  if (regex.empty() == literal.empty()) {
    return invalid_argument("tokenizer.json: pre_tokenizer Split.pattern needs a Regex or a String")
        .about("pre_tokenizer");
  }
  add_split(regex.empty() ? quote_literal(literal) : regex, parts);
  return Status::ok();
}

Status read_pre_tokenizer(const Json& value, TokenizerParts& parts) {
  bool byte_level = false;
  for (const Json* step : flatten(value, "pretokenizers")) {
    const std::string& type = string_or_empty(*step, "type");
    if (byte_level) return unsupported("pre_tokenizer", "a step after ByteLevel");
    if (type == "Split") {
      FATHOM_RETURN_IF_ERROR(read_split(*step, parts));
    } else if (type == "Digits") {
      const bool each = flag(*step, "individual_digits");
      parts.steps.push_back({each ? Kind::kIndividualDigits : Kind::kDigitRuns, {}});
    } else if (type == "ByteLevel") {
      byte_level = true;
      if (flag(*step, "add_prefix_space", true)) {
        return unsupported("pre_tokenizer ByteLevel.add_prefix_space", "true");
      }
      if (flag(*step, "use_regex", true)) add_split(kGpt2Pattern, parts);
    } else {
      return unsupported("pre_tokenizer", "\"" + type + "\"");
    }
  }
  if (!byte_level) return unsupported("pre_tokenizer", "without ByteLevel");
  return Status::ok();
}

Status read_decoder(const Json& value) {
  const std::string& type = string_or_empty(value, "type");
  if (type != "ByteLevel") return unsupported("decoder", "\"" + type + "\"");
  return Status::ok();
}

}  // namespace

Status read_pipeline(const JsonDocument& document, TokenizerParts& parts) {
  FATHOM_RETURN_IF_ERROR(read_normalizer(member(document.root, "normalizer"), parts));
  FATHOM_RETURN_IF_ERROR(read_pre_tokenizer(member(document.root, "pre_tokenizer"), parts));
  return read_decoder(member(document.root, "decoder"));
}

}  // namespace fathom::text
