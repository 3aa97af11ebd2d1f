// quantization_config of DeepSeek-V3, V3.1 and Hugging Face's FineGrainedFP8, which share their
// keys.
#include "weights/quantization.h"

#include "weights/json_fields.h"

namespace fathom {
namespace {

Status refuse(const std::string& file, const std::string& why) {
  return unimplemented(file + ": " + why).about("quantization_config");
}

Result<QuantizationConfig> parse_fp8(const Json& quantization, const std::string& file) {
  QuantizationConfig result;
  result.fp8_block = true;
  FATHOM_ASSIGN(const std::string fmt, json_string(quantization, "fmt", "e4m3"));
  if (fmt != "e4m3") return refuse(file, "fp8 format " + quoted_name(fmt) + " is not supported");
  FATHOM_ASSIGN(const std::string scheme,
                json_string(quantization, "activation_scheme", "dynamic"));
  if (scheme != "dynamic") {
    return refuse(file,
                  "activation_scheme " + quoted_name(scheme) + " is not supported; 'dynamic' is");
  }
  const auto block = quantization.find("weight_block_size");
  if (block == quantization.end() || block->is_null()) {
    return refuse(file, "fp8 without weight_block_size (one scale per tensor) is not supported");
  }
  if (!block->is_array() || block->size() != 2) {
    return invalid_argument(file + ": weight_block_size must be two integers")
        .about("weight_block_size");
  }
  const Json sides = {{"rows", (*block)[0]}, {"columns", (*block)[1]}};
  FATHOM_ASSIGN(const int64_t rows, json_integer(sides, "rows", 1, 4096, std::nullopt));
  FATHOM_ASSIGN(const int64_t columns, json_integer(sides, "columns", 1, 4096, std::nullopt));
  result.block_rows = static_cast<int32_t>(rows);
  result.block_columns = static_cast<int32_t>(columns);
  FATHOM_ASSIGN(const std::string scale_format, json_string(quantization, "scale_fmt", "float"));
  if (scale_format != "float" && scale_format != "ue8m0") {
    return refuse(file, "scale_fmt " + quoted_name(scale_format) + " is not supported");
  }
  result.ue8m0 = scale_format == "ue8m0";
  return result;
}

}  // namespace

Result<QuantizationConfig> parse_quantization_config(std::string_view config_json,
                                                     const std::string& file) {
  FATHOM_ASSIGN(const Json config, parse_json_object(config_json, file));
  for (const char* key : {"quantization_config", "compression_config"}) {
    const auto found = config.find(key);
    if (found == config.end() || found->is_null()) continue;
    if (!found->is_object()) {
      return invalid_argument(file + ": " + key + " must be an object").about(key);
    }
    FATHOM_ASSIGN(const std::string method, json_string(*found, "quant_method", ""));
    if (method == "fp8") return parse_fp8(*found, file);
    if (method.empty()) return refuse(file, std::string(key) + " names no quant_method");
    return refuse(file, "quantization method " + quoted_name(method) +
                            " is not supported; 'fp8' with block scales and unquantized are");
  }
  return QuantizationConfig{};
}

}  // namespace fathom
