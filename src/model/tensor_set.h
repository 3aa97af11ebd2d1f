// The check of a checkpoint against the tensors that its config asks for (models.md 8.5). Which
// those are is said family by family (deepseek_tensors, dense_tensors). Pure.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "fathom/weight.h"

namespace fathom {

struct ExpectedTensor {
  std::string name;
  std::vector<int64_t> shape;
};
using TensorVisitor = std::function<void(const ExpectedTensor&)>;
// Calls its argument for every tensor that a model needs; scales of quantized weights are not among
// them.
using TensorList = std::function<void(const TensorVisitor&)>;

// "model.layers.7."
std::string layer_prefix(int32_t layer);

// gate_proj, up_proj and down_proj.
void visit_mlp(const std::string& at, int64_t hidden, int64_t width, const TensorVisitor& visit);

int64_t element_count(const TensorList& expected);
// Bytes of the tensors as `source` stores them.
int64_t stored_bytes(const TensorList& expected, const WeightSource& source);

// Fails with the first tensor that is missing or has another shape; logs those that no one expects,
// but for buffers, a head that is the embedding, and what `is_tolerated` names.
Status check_tensor_set(const TensorList& expected, const WeightSource& source,
                        const std::function<bool(const std::string&)>& is_tolerated);

}  // namespace fathom
