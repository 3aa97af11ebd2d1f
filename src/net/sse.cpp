// See sse.h.
#include "net/sse.h"

namespace fathom::net {

namespace {

struct LineBreak {
  std::string_view escape;  // empty: no such character here
  size_t bytes = 0;
};

// U+0085 is C2 85 in UTF-8, U+2028 E2 80 A8, U+2029 E2 80 A9.
LineBreak line_break_at(std::string_view text, size_t at) {
  const std::string_view rest = text.substr(at);
  if (rest.starts_with("\xc2\x85")) return {"\\u0085", 2};
  if (rest.starts_with("\xe2\x80\xa8")) return {"\\u2028", 3};
  if (rest.starts_with("\xe2\x80\xa9")) return {"\\u2029", 3};
  return {};
}

// The next byte that may begin one of the three, or npos.
size_t next_candidate(std::string_view text, size_t from) {
  for (size_t i = from; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    if (byte == 0xc2 || byte == 0xe2) return i;
  }
  return std::string_view::npos;
}

}  // namespace

void append_line_safe_json(std::string& out, std::string_view json) {
  size_t done = 0;
  for (size_t at = next_candidate(json, 0); at != std::string_view::npos;) {
    const LineBreak found = line_break_at(json, at);
    if (found.bytes > 0) {
      out.append(json, done, at - done);
      out.append(found.escape);
      done = at + found.bytes;
    }
    at = next_candidate(json, at + (found.bytes > 0 ? found.bytes : 1));
  }
  out.append(json, done);
}

bool has_unicode_line_break(std::string_view json) {
  for (size_t at = next_candidate(json, 0); at != std::string_view::npos;
       at = next_candidate(json, at + 1)) {
    if (line_break_at(json, at).bytes > 0) return true;
  }
  return false;
}

void append_sse_event(std::string& out, std::string_view json) {
  out.append("data: ");
  const size_t start = out.size();
  append_line_safe_json(out, json);
  for (size_t i = start; i < out.size(); ++i) {
    if (out[i] == '\n' || out[i] == '\r') out[i] = ' ';
  }
  out.append("\n\n");
}

}  // namespace fathom::net
