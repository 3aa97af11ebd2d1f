// The grammar of single fields of a request, as pure predicates (RFC 9110 and 9112).
#pragma once

#include <string_view>

namespace fathom::net {

bool is_token(std::string_view text);              // tchar+, RFC 9110 5.6.2
bool is_decimal(std::string_view text);            // digits only, 1 to 19 of them
bool is_host(std::string_view value);              // uri-host [":" port], not empty
bool is_visible_ascii(std::string_view text);      // 0x21 to 0x7e
bool is_safe_field_value(std::string_view value);  // no control character but HT

// Where the path of an absolute-form target ("http://host/path") begins; npos for another form.
// "http://host" has its path at the end (an empty path, which means "/").
size_t absolute_form_path(std::string_view target);
// The host of an absolute-form target.
std::string_view absolute_form_host(std::string_view target);

}  // namespace fathom::net
