// Character classes of Unicode 16, as Hugging Face's tokenizers see them. Immutable; any thread.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace fathom::text {

// Bits of a character. General categories by their first letter (\p{L}, \p{M}, ...).
enum CharClass : std::uint8_t {
  kLetter = 1,
  kMark = 2,
  kNumber = 4,
  kPunct = 8,
  kSymbol = 16,
  kSpace = 32,         // White_Space
  kWord = 64,          // ends a word for added tokens with single_word
  kNfcBoundary = 128,  // NFC may start afresh before this character
};

// One byte of CharClass bits per code point.
class UnicodeTable {
 public:
  static const UnicodeTable& get();

  std::uint8_t operator[](char32_t code) const { return bits_[code]; }

 private:
  UnicodeTable();
  std::vector<std::uint8_t> bits_;  // [0x110000]
};

// What Unicode 16 has in \p{`category`} (one of LMNPS) and Unicode 14 has not, as the inside of a
// PCRE2 character class: PCRE2 10.42 is Unicode 14. Empty for other categories.
std::string_view newer_than_unicode14(char category);

}  // namespace fathom::text
