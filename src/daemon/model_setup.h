// What the front end reads of a model directory before any engine runs: tokenizer, chat format,
// sampling defaults.
#pragma once

#include <string>

#include "api/served_model.h"
#include "config/config.h"
#include "fathom/status.h"

namespace fathom {

// config.model.model, or the demo model that lies beside the executable.
Result<std::string> find_model_directory(const Config& config);

// Everything of a ServedModel but its engine.
Result<api::ServedModel> read_served_model(const Config& config, const std::string& directory,
                                           const Clock& clock);

}  // namespace fathom
