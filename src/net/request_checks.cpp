// See request_checks.h.
#include "net/request_checks.h"

#include <algorithm>

#include "net/http_message.h"

namespace fathom::net {

namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_alnum(char c) { return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

bool is_port(std::string_view port) {
  return port.size() <= 5 && std::all_of(port.begin(), port.end(), is_digit);
}

bool is_ipv6_literal_char(char c) { return is_alnum(c) || c == ':' || c == '.'; }

bool is_reg_name_char(char c) {
  return is_alnum(c) || std::string_view("-._~!$&'()*+,;=%").find(c) != std::string_view::npos;
}

size_t scheme_size(std::string_view target) {
  for (const std::string_view scheme :
       {std::string_view("http://"), std::string_view("https://")}) {
    if (equals_ignoring_case(target.substr(0, scheme.size()), scheme)) return scheme.size();
  }
  return 0;
}

}  // namespace

bool is_token(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) {
    return is_alnum(c) || std::string_view("!#$%&'*+-.^_`|~").find(c) != std::string_view::npos;
  });
}

bool is_decimal(std::string_view text) {
  return !text.empty() && text.size() <= 19 && std::all_of(text.begin(), text.end(), is_digit);
}

bool is_host(std::string_view value) {
  if (value.starts_with('[')) {
    const size_t end = value.find(']');
    if (end == std::string_view::npos || end == 1) return false;
    const std::string_view literal = value.substr(1, end - 1);
    const std::string_view rest = value.substr(end + 1);
    return std::all_of(literal.begin(), literal.end(), is_ipv6_literal_char) &&
           (rest.empty() || (rest.front() == ':' && is_port(rest.substr(1))));
  }
  const size_t colon = value.find(':');
  const std::string_view name = value.substr(0, colon);
  return !name.empty() && std::all_of(name.begin(), name.end(), is_reg_name_char) &&
         (colon == std::string_view::npos || is_port(value.substr(colon + 1)));
}

bool is_visible_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c > 0x20 && c < 0x7f; });
}

bool is_safe_field_value(std::string_view value) {
  return std::all_of(value.begin(), value.end(), [](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return byte == '\t' || (byte >= 0x20 && byte != 0x7f);
  });
}

size_t absolute_form_path(std::string_view target) {
  const size_t start = scheme_size(target);
  if (start == 0) return std::string_view::npos;
  return std::min(target.find_first_of("/?", start), target.size());
}

std::string_view absolute_form_host(std::string_view target) {
  const size_t start = scheme_size(target);
  if (start == 0) return {};
  return target.substr(start, absolute_form_path(target) - start);
}

}  // namespace fathom::net
