// What the scanners share: a cursor over valid UTF-8 with the class of each character.
#pragma once

#include <cstdint>
#include <string_view>

#include "text/unicode_class.h"
#include "text/utf8.h"

namespace fathom::text {

class ScanCursor {
 public:
  struct Char {
    char32_t code;
    std::uint8_t bits;    // CharClass; 0 at the end of the text
    std::uint8_t length;  // bytes; 0 at the end of the text
  };

  explicit ScanCursor(std::string_view text) : text_(text) {}

  Char at(std::size_t i) const {
    if (i >= text_.size()) return {0, 0, 0};
    const auto first = static_cast<unsigned char>(text_[i]);
    if (first < 0x80) return {first, table_[first], 1};
    std::size_t length = 0;
    const char32_t code = decode_valid_utf8(text_.data() + i, length);
    return {code, table_[code], static_cast<std::uint8_t>(length)};
  }

  std::size_t size() const { return text_.size(); }

 private:
  std::string_view text_;
  const UnicodeTable& table_ = UnicodeTable::get();
};

inline bool is_newline(char32_t code) { return code == '\r' || code == '\n'; }
inline bool is_ascii_letter(char32_t code) { return (code | 0x20) - 'a' < 26; }

}  // namespace fathom::text
