// UTF-8: validation, safe truncation and lossy conversion. Pure functions, any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace fathom::text {

// Strict UTF-8 (Unicode 16, table 3-7): no surrogates, no overlong forms, nothing above U+10FFFF.
bool is_valid_utf8(std::string_view text);

// Byte offset of the first byte that does not belong to a well-formed character, or nothing.
std::optional<std::size_t> first_invalid_utf8(std::string_view text);

// The longest prefix of at most `max_bytes` bytes that does not cut a character in two.
// `text` must be valid UTF-8.
std::string_view truncate_utf8(std::string_view text, std::size_t max_bytes);

// Appends `bytes` with every maximal subpart of an ill-formed sequence replaced by one U+FFFD
// (Unicode 16, section 3.9; the same as Rust's from_utf8_lossy and the WHATWG decoder).
void append_utf8_lossy(std::string_view bytes, std::string& out);

// How `append_utf8_lossy` sees the start of `bytes` (not empty): a character of `length` bytes, an
// ill-formed subpart of `length` bytes, or a well-formed beginning that more bytes could complete.
struct Utf8Unit {
  enum class Kind { kCharacter, kIllFormed, kIncomplete };
  Kind kind;
  std::size_t length;
};
Utf8Unit next_utf8_unit(std::string_view bytes);

// Appends the UTF-8 form of a Unicode scalar value.
void append_code_point(char32_t code, std::string& out);

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";

// The character at `p` of text known to be valid; `length` receives its size in bytes.
inline char32_t decode_valid_utf8(const char* p, std::size_t& length) {
  const auto* u = reinterpret_cast<const unsigned char*>(p);
  if (u[0] < 0x80) {
    length = 1;
    return u[0];
  }
  if (u[0] < 0xE0) {
    length = 2;
    return static_cast<char32_t>((u[0] & 0x1F) << 6 | (u[1] & 0x3F));
  }
  if (u[0] < 0xF0) {
    length = 3;
    return static_cast<char32_t>((u[0] & 0x0F) << 12 | (u[1] & 0x3F) << 6 | (u[2] & 0x3F));
  }
  length = 4;
  return static_cast<char32_t>((u[0] & 0x07) << 18 | (u[1] & 0x3F) << 12 | (u[2] & 0x3F) << 6 |
                               (u[3] & 0x3F));
}

}  // namespace fathom::text
