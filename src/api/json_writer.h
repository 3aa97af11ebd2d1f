// Append-only JSON writing for the streaming path, where a document per token would cost more than
// the token.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace fathom::api {

// `text` (UTF-8) as a JSON string with its quotes. U+2028, U+2029 and U+0085 are escaped: some
// clients split lines there.
void append_json_string(std::string& out, std::string_view text);

void append_json_int(std::string& out, int64_t value);

// Shortest form that reads back as the same float; -inf (a masked token) is written as -9999.0, as
// clients expect.
void append_json_float(std::string& out, float value);

}  // namespace fathom::api
