// The rotary embedding that a config.json asks for. Pure.
#pragma once

#include <cstdint>

#include "model/config_reader.h"
#include "model/rope_tables.h"

namespace fathom {

// Reads rope_theta and rope_scaling, or transformers 5's rope_parameters that hold both, for heads
// with `dims` rotated dimensions. What is wrong goes into `in`.
RopeConfig read_rope(ConfigReader& in, int32_t dims, int32_t positions_max);

}  // namespace fathom
