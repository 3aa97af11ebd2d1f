// Reads .xz files in tests.
#pragma once

#include <string>

#include "fathom/status.h"

namespace fathom::testing {

// The uncompressed content of an .xz file, at most 1 GiB.
Result<std::string> read_xz(const std::string& path);

}  // namespace fathom::testing
