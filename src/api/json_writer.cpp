// Escapes and numbers.
#include "api/json_writer.h"

#include <charconv>
#include <cmath>

namespace fathom::api {
namespace {

constexpr char kHex[] = "0123456789abcdef";

void append_escape(std::string& out, unsigned char c) {
  switch (c) {
    case '"': out += "\\\""; return;
    case '\\': out += "\\\\"; return;
    case '\n': out += "\\n"; return;
    case '\r': out += "\\r"; return;
    case '\t': out += "\\t"; return;
    case '\b': out += "\\b"; return;
    case '\f': out += "\\f"; return;
    default:
      out += "\\u00";
      out += kHex[c >> 4];
      out += kHex[c & 15];
  }
}

// The escape of a line-breaking character that starts at `at`, and its length in bytes; 0 when
// there is none.
size_t line_break_at(std::string_view text, size_t at, const char** escape) {
  const auto byte = [&](size_t i) {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U;
  };
  if (byte(at) == 0xC2 && byte(at + 1) == 0x85) {
    *escape = "\\u0085";
    return 2;
  }
  if (byte(at) == 0xE2 && byte(at + 1) == 0x80 && (byte(at + 2) & 0xFE) == 0xA8) {
    *escape = byte(at + 2) == 0xA8 ? "\\u2028" : "\\u2029";
    return 3;
  }
  return 0;
}

}  // namespace

void append_json_string(std::string& out, std::string_view text) {
  out += '"';
  size_t plain = 0;  // start of the run not yet copied
  for (size_t i = 0; i < text.size();) {
    const auto c = static_cast<unsigned char>(text[i]);
    size_t length = 0;
    const char* escape = nullptr;
    if (c < 0x20 || c == '"' || c == '\\' || c == 0x7F) {
      out.append(text, plain, i - plain);
      append_escape(out, c);
      length = 1;
    } else if ((c == 0xC2 || c == 0xE2) && (length = line_break_at(text, i, &escape)) > 0) {
      out.append(text, plain, i - plain);
      out += escape;
    }
    if (length > 0) plain = i + length;
    i += length > 0 ? length : 1;
  }
  out.append(text, plain, text.size() - plain);
  out += '"';
}

void append_json_int(std::string& out, int64_t value) {
  char buffer[24];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, value).ptr;
  out.append(buffer, end);
}

void append_json_float(std::string& out, float value) {
  if (!std::isfinite(value)) {
    out += "-9999.0";
    return;
  }
  char buffer[32];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, value).ptr;
  const std::string_view text(buffer, end);
  out.append(text);
  if (text.find_first_of(".e") == text.npos) out += ".0";
}

}  // namespace fathom::api
