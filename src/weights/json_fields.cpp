// Typed reads of JSON members.
#include "weights/json_fields.h"

namespace fathom {
namespace {

Status wrong_type(const std::string& key, const std::string& expected) {
  return invalid_argument("'" + key + "' must be " + expected).about(key);
}

const Json* member(const Json& object, const std::string& key) {
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

}  // namespace

std::string quoted_name(std::string_view name) {
  constexpr size_t kKept = 120;
  std::string text = "'";
  for (const char c : name.substr(0, kKept)) {
    text.push_back(c >= 0x20 && c <= 0x7e ? c : '?');
  }
  if (name.size() > kKept) text.append("...");
  text.push_back('\'');
  return text;
}

Result<Json> parse_json_object(std::string_view text, const std::string& file) {
  Result<Json> parsed = parse_json(text);
  if (!parsed.is_ok()) {
    return invalid_argument(file + ": " + parsed.status().message()).about(file);
  }
  if (!parsed->is_object()) return invalid_argument(file + " is not a JSON object").about(file);
  return parsed;
}

Result<int64_t> json_integer(const Json& object, const std::string& key, int64_t min, int64_t max,
                             std::optional<int64_t> otherwise) {
  const Json* found = member(object, key);
  if (found == nullptr) {
    if (otherwise) return *otherwise;
    return invalid_argument("'" + key + "' is missing").about(key);
  }
  const std::string range = "an integer from " + std::to_string(min) + " to " + std::to_string(max);
  if (!found->is_number_integer()) return wrong_type(key, range);
  if (found->is_number_unsigned() && found->get<uint64_t>() > static_cast<uint64_t>(max)) {
    return wrong_type(key, range);
  }
  const auto value = found->get<int64_t>();
  if (value < min || value > max) return wrong_type(key, range);
  return value;
}

Result<std::string> json_string(const Json& object, const std::string& key,
                                const std::string& otherwise) {
  const Json* found = member(object, key);
  if (found == nullptr) return otherwise;
  if (!found->is_string()) return wrong_type(key, "a string");
  return found->get<std::string>();
}

Result<bool> json_bool(const Json& object, const std::string& key, bool otherwise) {
  const Json* found = member(object, key);
  if (found == nullptr) return otherwise;
  if (!found->is_boolean()) return wrong_type(key, "true or false");
  return found->get<bool>();
}

}  // namespace fathom
