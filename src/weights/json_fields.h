// Typed, bounded reads of a checkpoint's JSON files (config.json, the index). Pure functions; any
// thread. Errors name the key.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/json.h"
#include "fathom/status.h"

namespace fathom {

// The text of a name from an untrusted file, in quotes, safe to print: bytes that are not printable
// ASCII become '?', and no more than 120 are kept.
std::string quoted_name(std::string_view name);

// The object in `text`; errors name `file`.
Result<Json> parse_json_object(std::string_view text, const std::string& file);

// Member `key` of `object`, an integer in [min, max]; `otherwise` when it is absent or null (an
// error when there is no `otherwise`).
Result<int64_t> json_integer(const Json& object, const std::string& key, int64_t min, int64_t max,
                             std::optional<int64_t> otherwise);

// Member `key`, a string; `otherwise` when it is absent or null.
Result<std::string> json_string(const Json& object, const std::string& key,
                                const std::string& otherwise);

// Member `key`, true or false; `otherwise` when it is absent or null.
Result<bool> json_bool(const Json& object, const std::string& key, bool otherwise);

}  // namespace fathom
