// The byte-level alphabet, both directions.
#include "text/byte_map.h"

#include <array>

#include "text/utf8.h"

namespace fathom::text {
namespace {

constexpr int kFirstShifted = 0x100;
constexpr int kAlphabetEnd = kFirstShifted + 68;

constexpr bool stands_for_itself(int b) {
  return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
}

constexpr std::array<char32_t, 256> make_byte_to_char() {
  std::array<char32_t, 256> map{};
  char32_t next = kFirstShifted;
  for (int b = 0; b < 256; ++b) map[b] = stands_for_itself(b) ? static_cast<char32_t>(b) : next++;
  return map;
}
constexpr auto kByteToChar = make_byte_to_char();

constexpr std::array<short, kAlphabetEnd> make_char_to_byte() {
  std::array<short, kAlphabetEnd> map{};
  for (auto& entry : map) entry = -1;
  for (int b = 0; b < 256; ++b) map[kByteToChar[b]] = static_cast<short>(b);
  return map;
}
constexpr auto kCharToByte = make_char_to_byte();

}  // namespace

char32_t byte_to_char(unsigned char byte) { return kByteToChar[byte]; }

std::optional<std::string> symbols_to_bytes(std::string_view symbols) {
  std::string bytes;
  bytes.reserve(symbols.size());
  while (!symbols.empty()) {
    if (next_utf8_unit(symbols).kind != Utf8Unit::Kind::kCharacter) return std::nullopt;
    std::size_t length = 0;
    const char32_t code = decode_valid_utf8(symbols.data(), length);
    if (code >= kAlphabetEnd || kCharToByte[code] < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(kCharToByte[code]));
    symbols.remove_prefix(length);
  }
  return bytes;
}

}  // namespace fathom::text
