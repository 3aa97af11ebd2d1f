// The HTTP/1.x parser: any bytes, in one piece or byte by byte, are refused or read the same.
#include <optional>
#include <string>
#include <string_view>

#include "fathom/check.h"
#include "net/request_parser.h"

namespace {

using fathom::net::RequestParser;

struct Outcome {
  int refused = 0;  // status, 0: not refused
  std::string method;
  std::string path;
  size_t fields = 0;
  bool operator==(const Outcome&) const = default;
};

// None: more bytes are needed. `step`: how many bytes arrive at a time.
std::optional<Outcome> read_head(std::string_view input, size_t step) {
  fathom::net::HttpLimits limits;
  RequestParser parser(limits);
  for (size_t size = step; size < input.size() + step; size += step) {
    RequestParser::Progress progress = parser.parse_head(input.substr(0, size));
    if (progress.refusal) return Outcome{progress.refusal->status, {}, {}, 0};
    if (!progress.complete) continue;
    FATHOM_CHECK(progress.consumed <= input.size(), "consumed more than was given");
    if (parser.body_expected()) (void)parser.parse_body(input.substr(progress.consumed));
    const fathom::net::HttpRequest& request = parser.request();
    return Outcome{0, request.method, request.path, request.headers.size()};
  }
  return std::nullopt;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size > 4096) return 0;  // byte by byte is quadratic
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  FATHOM_CHECK(read_head(input, size + 1) == read_head(input, 1), "the pieces change the meaning");
  return 0;
}
