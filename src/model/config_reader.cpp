// Typed reads of config.json.
#include "model/config_reader.h"

#include <cmath>

namespace fathom {

void ConfigReader::fail(const char* key, const std::string& message) {
  if (!status_.is_ok()) return;
  const std::string name = at_ + key;
  status_ = invalid_argument(file_ + ": " + name + " " + message).about(name);
}

const Json* ConfigReader::find(const char* key, bool required) {
  if (has(key)) return &object_.at(key);
  if (required) fail(key, "is missing");
  return nullptr;
}

int32_t ConfigReader::whole(const char* key, int64_t low, int64_t high,
                            std::optional<int32_t> otherwise) {
  const auto fallback = otherwise.value_or(static_cast<int32_t>(low));
  const Json* value = find(key, !otherwise);
  if (value == nullptr) return fallback;
  const std::string range = std::to_string(low) + " to " + std::to_string(high);
  if (!value->is_number_integer()) {
    fail(key, "must be an integer from " + range);
    return fallback;
  }
  const bool huge = value->is_number_unsigned() &&
                    value->get<uint64_t>() > uint64_t{std::numeric_limits<int64_t>::max()};
  const int64_t n = huge ? std::numeric_limits<int64_t>::max() : value->get<int64_t>();
  if (n < low || n > high) {
    fail(key, "is " + value->dump() + ", must be from " + range);
    return fallback;
  }
  return static_cast<int32_t>(n);
}

double ConfigReader::number(const char* key, std::optional<double> otherwise) {
  const Json* value = find(key, !otherwise);
  if (value == nullptr) return otherwise.value_or(1.0);
  if (!value->is_number() || !std::isfinite(value->get<double>())) {
    fail(key, "must be a number");
    return otherwise.value_or(1.0);
  }
  return value->get<double>();
}

bool ConfigReader::flag(const char* key, std::optional<bool> otherwise) {
  const Json* value = find(key, !otherwise);
  if (value == nullptr) return otherwise.value_or(false);
  if (!value->is_boolean()) {
    fail(key, "must be true or false");
    return otherwise.value_or(false);
  }
  return value->get<bool>();
}

std::string ConfigReader::text(const char* key, std::optional<std::string> otherwise) {
  const Json* value = find(key, !otherwise);
  if (value == nullptr) return otherwise.value_or(std::string());
  if (!value->is_string()) {
    fail(key, "must be a string");
    return otherwise.value_or(std::string());
  }
  return value->get<std::string>();
}

std::vector<int32_t> ConfigReader::ids(const char* key) {
  std::vector<int32_t> ids;
  const Json* value = find(key, false);
  if (value == nullptr) return ids;
  const auto add = [&](const Json& id) {
    const bool fits =
        id.is_number_integer() && id >= 0 && id <= std::numeric_limits<int32_t>::max();
    if (fits)
      ids.push_back(id.get<int32_t>());
    else
      fail(key, "must be a token id or a list of token ids");
  };
  if (value->is_array()) {
    for (const Json& id : *value) add(id);
  } else {
    add(*value);
  }
  return ids;
}

}  // namespace fathom
