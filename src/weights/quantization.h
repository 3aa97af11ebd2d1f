// How a checkpoint is quantized, as its config.json says (models.md 3.3). The config gives block
// size and scale format only: whether one tensor is quantized is decided by its dtype and its
// scales. A value; immutable.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "fathom/status.h"

namespace fathom {

struct QuantizationConfig {
  bool fp8_block = false;  // some weights are F8_E4M3 with one scale per block
  int32_t block_rows = 128;
  int32_t block_columns = 128;
  bool ue8m0 = false;  // scale_fmt "ue8m0": activation scales are powers of two as well
};

// Reads `quantization_config` of config.json's text. Refuses by name what Fathom does not load
// (gptq, awq, compressed-tensors, bitsandbytes, fp8 without blocks, ...). `file` names the text in
// errors.
Result<QuantizationConfig> parse_quantization_config(std::string_view config_json,
                                                     const std::string& file);

}  // namespace fathom
