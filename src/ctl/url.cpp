// Parses a server's URL.
#include "ctl/url.h"

#include <algorithm>
#include <charconv>

namespace fathom::ctl {
namespace {

Status bad_url(std::string_view text, const char* why) {
  return invalid_argument("'" + std::string(text) + "' is not a server's URL: " + why).about("url");
}

bool is_host_character(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
         c == '-' || c == '_' || c == ':' || c == '%';
}

// Splits "host[:port]" or "[address][:port]".
bool split_authority(std::string_view text, std::string_view& host, std::string_view& port) {
  size_t end = 0;
  if (text.starts_with('[')) {
    end = text.find(']');
    if (end == std::string_view::npos) return false;
    host = text.substr(1, end - 1);
    ++end;
  } else {
    end = std::min(text.find(':'), text.size());
    host = text.substr(0, end);
  }
  if (end == text.size()) return true;
  if (text[end] != ':') return false;
  port = text.substr(end + 1);
  return !port.empty();
}

}  // namespace

std::string Url::authority() const {
  const bool address6 = host.find(':') != std::string::npos;
  return (address6 ? "[" + host + "]" : host) + ":" + std::to_string(port);
}

Result<Url> parse_url(std::string_view text) {
  Url url;
  std::string_view rest = text;
  if (const size_t scheme = rest.find("://"); scheme != std::string_view::npos) {
    const std::string_view name = rest.substr(0, scheme);
    if (name != "http" && name != "https") return bad_url(text, "it begins with http or https");
    url.tls = name == "https";
    rest.remove_prefix(scheme + 3);
  }
  const size_t slash = std::min(rest.find('/'), rest.size());
  url.prefix = rest.substr(slash);
  while (url.prefix.ends_with('/')) url.prefix.pop_back();
  for (const char c : url.prefix) {
    if (c <= ' ' || c > '~' || c == '?' || c == '#') return bad_url(text, "the path is not plain");
  }
  std::string_view host;
  std::string_view port;
  if (!split_authority(rest.substr(0, slash), host, port)) {
    return bad_url(text, "host and port are not separated by one colon");
  }
  if (host.empty() || host.size() > 255) return bad_url(text, "it has no host");
  for (const char c : host) {
    if (!is_host_character(c)) return bad_url(text, "the host has a character that none has");
  }
  url.host = host;
  url.port = url.tls ? 443 : 80;
  if (!port.empty()) {
    const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), url.port);
    if (error != std::errc() || end != port.data() + port.size() || url.port == 0) {
      return bad_url(text, "the port is 1 to 65535");
    }
  }
  return url;
}

}  // namespace fathom::ctl
