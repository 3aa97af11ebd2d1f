// The models whose steps are timed: config.json texts in true shapes.
#pragma once

#include <optional>
#include <string>

namespace fathom::bench {

// A preset of fathomctl synth with its format: "llama-8b:bf16", "v2-lite:fp8"; "v3-slice:fp8" is
// V3's first dense layer and four of its expert layers, "v3-slice2:fp8" two of them. A path of a
// config.json is taken as it is.
std::optional<std::string> model_config(const std::string& name);

}  // namespace fathom::bench
