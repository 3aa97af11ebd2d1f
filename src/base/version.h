// Which build this is.
#pragma once

#include <string>
#include <string_view>

namespace fathom {

std::string_view version();  // "0.1.0"
std::string_view commit();   // of the tree when it was configured; "unknown" outside a checkout
std::string version_line();  // "fathom 0.1.0 (1a2b3c4d5e6f)"

}  // namespace fathom
