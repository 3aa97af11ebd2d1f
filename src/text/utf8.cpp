// UTF-8 by the table of well-formed byte sequences.
#include "text/utf8.h"

#include <algorithm>
#include <cstring>

namespace fathom::text {
namespace {

// What may follow a lead byte: the number of bytes in all and the range of the second byte.
struct Lead {
  std::uint8_t length;  // 0: not a lead byte
  std::uint8_t low, high;
};

constexpr Lead lead_of(unsigned char b) {
  if (b < 0x80) return {1, 0, 0};
  if (b < 0xC2) return {0, 0, 0};
  if (b < 0xE0) return {2, 0x80, 0xBF};
  if (b == 0xE0) return {3, 0xA0, 0xBF};
  if (b == 0xED) return {3, 0x80, 0x9F};
  if (b < 0xF0) return {3, 0x80, 0xBF};
  if (b == 0xF0) return {4, 0x90, 0xBF};
  if (b < 0xF4) return {4, 0x80, 0xBF};
  if (b == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

// Bytes at the front of `text` that are ASCII, counted eight at a time.
std::size_t ascii_prefix(std::string_view text) {
  std::size_t i = 0;
  for (; i + 8 <= text.size(); i += 8) {
    std::uint64_t word;
    std::memcpy(&word, text.data() + i, 8);
    if (word & 0x8080808080808080ULL) break;
  }
  while (i < text.size() && static_cast<unsigned char>(text[i]) < 0x80) ++i;
  return i;
}

}  // namespace

Utf8Unit next_utf8_unit(std::string_view bytes) {
  using Kind = Utf8Unit::Kind;
  const Lead lead = lead_of(static_cast<unsigned char>(bytes[0]));
  if (lead.length == 0) return {Kind::kIllFormed, 1};
  for (std::size_t i = 1; i < lead.length; ++i) {
    if (i == bytes.size()) return {Kind::kIncomplete, i};
    const auto b = static_cast<unsigned char>(bytes[i]);
    const bool fits = i == 1 ? b >= lead.low && b <= lead.high : (b & 0xC0) == 0x80;
    if (!fits) return {Kind::kIllFormed, i};
  }
  return {Kind::kCharacter, lead.length};
}

std::optional<std::size_t> first_invalid_utf8(std::string_view text) {
  std::size_t i = 0;
  while (i < text.size()) {
    i += ascii_prefix(text.substr(i));
    if (i == text.size()) break;
    const Utf8Unit unit = next_utf8_unit(text.substr(i));
    if (unit.kind != Utf8Unit::Kind::kCharacter) return i;
    i += unit.length;
  }
  return std::nullopt;
}

bool is_valid_utf8(std::string_view text) { return !first_invalid_utf8(text).has_value(); }

std::string_view truncate_utf8(std::string_view text, std::size_t max_bytes) {
  if (text.size() <= max_bytes) return text;
  std::size_t end = max_bytes;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  return text.substr(0, end);
}

void append_utf8_lossy(std::string_view bytes, std::string& out) {
  while (!bytes.empty()) {
    const std::size_t ascii = ascii_prefix(bytes);
    out.append(bytes.substr(0, ascii));
    bytes.remove_prefix(ascii);
    if (bytes.empty()) return;
    const Utf8Unit unit = next_utf8_unit(bytes);
    out.append(unit.kind == Utf8Unit::Kind::kCharacter ? bytes.substr(0, unit.length)
                                                       : kReplacementCharacter);
    bytes.remove_prefix(unit.length);
  }
}

void append_code_point(char32_t code, std::string& out) {
  const auto low = [](char32_t bits) { return static_cast<char>(0x80 | (bits & 0x3F)); };
  if (code < 0x80) {
    out.push_back(static_cast<char>(code));
  } else if (code < 0x800) {
    out.push_back(static_cast<char>(0xC0 | code >> 6));
    out.push_back(low(code));
  } else if (code < 0x10000) {
    out.push_back(static_cast<char>(0xE0 | code >> 12));
    out.push_back(low(code >> 6));
    out.push_back(low(code));
  } else {
    out.push_back(static_cast<char>(0xF0 | code >> 18));
    out.push_back(low(code >> 12));
    out.push_back(low(code >> 6));
    out.push_back(low(code));
  }
}

}  // namespace fathom::text
