// Built-in config.json texts for fathomctl synth: shapes of published models, and small ones.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace fathom::ctl {

std::vector<std::string> preset_list();
std::string preset_names();  // "v3-tiny, v3-demo, ..."
std::optional<std::string> preset_config(std::string_view name);

}  // namespace fathom::ctl
