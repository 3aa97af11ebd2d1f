// The tensors of a Llama, Qwen2 or Qwen3 checkpoint (models.md 3.2). Pure.
#pragma once

#include "model/dense_config.h"
#include "model/tensor_set.h"

namespace fathom {

void for_each_expected(const DenseConfig& config, const TensorVisitor& visit);

}  // namespace fathom
