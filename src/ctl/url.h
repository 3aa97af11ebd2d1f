// Where a server is: http[s]://host[:port][/prefix]. A value.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "fathom/status.h"

namespace fathom::ctl {

struct Url {
  bool tls = false;
  std::string host;  // a name or an address, without brackets
  uint16_t port = 0;
  std::string prefix;  // of every path: "" or "/something"

  // "host:port" as the Host header has it; an IPv6 address in brackets.
  std::string authority() const;
};

// "host" and "host:port" alone mean http. Errors name the text.
Result<Url> parse_url(std::string_view text);

}  // namespace fathom::ctl
