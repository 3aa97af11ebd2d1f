// Parsing of untrusted JSON: one entry point with bounds on depth, and no duplicate keys, for
// request bodies, config.json, tokenizer.json and safetensors headers alike.
#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <string_view>

#include "fathom/status.h"

namespace fathom {

// Keeps the order of keys as received (chat formats print tools in that order).
using Json = nlohmann::ordered_json;

struct JsonLimits {
  size_t depth_max = 32;
  size_t bytes_max = size_t{1} << 30;
};

// The value of `text`, which must be one JSON document and nothing after it. Errors say the byte
// and the reason: not JSON, too deep, a key twice in one object, not UTF-8.
Result<Json> parse_json(std::string_view text, JsonLimits limits = {});

}  // namespace fathom
