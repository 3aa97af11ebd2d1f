// Parsed JSON for the loader's files only, with look-ups that do not throw.
#pragma once

#include <string>

#include "base/json.h"

namespace fathom::text {

struct JsonDocument {
  Json root;
};

// The member `key` of an object, or null if there is no such member or `value` is no object.
inline const Json& member(const Json& value, const char* key) {
  static const Json null;
  if (!value.is_object()) return null;
  const auto found = value.find(key);
  return found == value.end() ? null : *found;
}

inline bool flag(const Json& value, const char* key, bool otherwise = false) {
  const Json& found = member(value, key);
  return found.is_boolean() ? found.get<bool>() : otherwise;
}

// A string member, or "" if it is missing or no string.
inline const std::string& string_or_empty(const Json& value, const char* key) {
  static const std::string empty;
  const Json& found = member(value, key);
  return found.is_string() ? found.get_ref<const std::string&>() : empty;
}

}  // namespace fathom::text
