// The texts that are generated from settings.def.
#pragma once

#include <string>

#include "config/config.h"

namespace fathom {

std::string render_help();                      // --help
std::string render_markdown();                  // docs/configuration.md
std::string render_yaml(const Config& config);  // configs/fathom.yaml, --check-config

}  // namespace fathom
