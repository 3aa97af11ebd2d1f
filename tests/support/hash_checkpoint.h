// HashCheckpoint: a checkpoint whose values are a hash of tensor name and element, the same in C++
// and in goldens/make_goldens.py, so that goldens need no weights beside them.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "fathom/weight.h"
#include "model/deepseek_config.h"

namespace fathom::testing {

// What linear weights are stored as; embeddings, norms, router and head are bfloat16, the router's
// bias is float32.
enum class HashFormat { kBF16, kFp8 };

// Element i of tensor `name`, uniform in [-1, 1) with 24 bits.
float hash_value(const std::string& name, uint64_t i);

class HashCheckpoint final : public WeightSource {
 public:
  HashCheckpoint(const DeepseekConfig& config, HashFormat format, bool ue8m0 = false);

  bool has(const std::string& name) const override { return tensors_.contains(name); }
  Result<Tensor> info(const std::string& name) const override;
  Result<HostTensor> read(const std::string& name) const override;
  Result<HostWeight> read_weight(const std::string& name, Span rows, Span columns) const override;
  std::vector<std::string> names() const override;

  void erase(const std::string& name) { tensors_.erase(name); }
  // Overwrites a tensor with another shape, zeroed.
  void reshape(const std::string& name, int64_t rows, int64_t columns);

 private:
  void add(const std::string& name, const std::vector<int64_t>& shape, HashFormat format);
  HostTensor& allocate(const std::string& name, DType dtype, const std::vector<int64_t>& shape);

  std::map<std::string, HostTensor> tensors_;
  bool ue8m0_ = false;
};

}  // namespace fathom::testing
