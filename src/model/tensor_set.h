// The tensors that a DeepSeek-V2 or V3 checkpoint must hold, as a function of its config
// (models.md 8.5). Pure.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "model/deepseek_config.h"

namespace fathom {

struct ExpectedTensor {
  std::string name;
  std::vector<int64_t> shape;
};

// "model.layers.7."
std::string layer_prefix(int32_t layer);

// Calls visit for every tensor of the main model, and of the draft layers if `with_draft`; scales
// of quantized weights are not among them.
void for_each_expected(const DeepseekConfig& config, bool with_draft,
                       const std::function<void(const ExpectedTensor&)>& visit);

// Numbers in the main model.
int64_t parameter_count(const DeepseekConfig& config);

// Fails with the first tensor that is missing or has another shape; logs those that no one expects.
Status check_tensor_set(const DeepseekConfig& config, bool with_draft, const WeightSource& source);

}  // namespace fathom
