// The byte-level alphabet of GPT-2: 256 printable characters that stand for the 256 bytes in
// tokenizer.json.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace fathom::text {

// The character that stands for `byte`: 33-126, 161-172 and 174-255 stand for themselves, the other
// 68 bytes in order for U+0100 and up.
char32_t byte_to_char(unsigned char byte);

// The bytes that `symbols` (UTF-8) stands for; nothing if it holds a character outside the
// alphabet.
std::optional<std::string> symbols_to_bytes(std::string_view symbols);

}  // namespace fathom::text
