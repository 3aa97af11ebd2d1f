// The build's name, given by CMake for this file alone.
#include "base/version.h"

namespace fathom {

std::string_view version() { return FATHOM_VERSION; }
std::string_view commit() { return FATHOM_COMMIT; }
std::string version_line() {
  return "fathom " + std::string(version()) + " (" + std::string(commit()) + ")";
}

}  // namespace fathom
