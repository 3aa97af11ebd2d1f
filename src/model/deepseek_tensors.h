// The tensors of a DeepSeek-V2 or V3 checkpoint (models.md 3.2). Pure.
#pragma once

#include <cstdint>

#include "model/deepseek_config.h"
#include "model/tensor_set.h"

namespace fathom {

// Of the main model, and of the draft layers if `with_draft`.
void for_each_expected(const DeepseekConfig& config, bool with_draft, const TensorVisitor& visit);

// Numbers in the main model.
int64_t parameter_count(const DeepseekConfig& config);

// As check_tensor_set of tensor_set.h; a draft layer's own copies of embedding and head are
// tolerated.
Status check_tensor_set(const DeepseekConfig& config, bool with_draft, const WeightSource& source);

}  // namespace fathom
