// Generated weights for any config.json (--load-format synthetic, fathomctl synth): to size
// hardware before a download, for benchmarks and tests. The values are a function of the seed and
// the tensor's name; their spread keeps activations of order one through any number of layers.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "fathom/weight.h"
#include "weights/inventory.h"
#include "weights/random_values.h"

namespace fathom {

// Immutable; any thread reads. Slices are generated when they are read.
class SyntheticSource final : public WeightSource {
 public:
  // `directory` holds config.json (or is the path of one). With `shapes_only` tensors have no data:
  // for CountOps.
  static Result<std::shared_ptr<const SyntheticSource>> open(const std::string& directory,
                                                             uint64_t seed, bool shapes_only);
  SyntheticSource(const ArchConfig& config, uint64_t seed, bool shapes_only);

  bool has(const std::string& name) const override { return index_.contains(name); }
  Result<Tensor> info(const std::string& name) const override;
  Result<HostTensor> read(const std::string& name) const override;
  Result<HostWeight> read_weight(const std::string& name, Span rows, Span columns) const override;

  const std::vector<InventoryTensor>& tensors() const { return tensors_; }
  // Elements [first, first + count) of tensor number `index`.
  void fill(size_t index, int64_t first, int64_t count, void* out) const {
    fill_values(recipes_[index], first, count, out);
  }

 private:
  Result<size_t> find(const std::string& name) const;
  HostTensor slice(size_t index, Span rows, Span columns) const;

  QuantizationConfig quantization_;
  bool shapes_only_ = false;
  std::vector<InventoryTensor> tensors_;
  std::vector<ValueRecipe> recipes_;
  std::unordered_map<std::string, size_t> index_;
};

struct SynthOptions {
  std::string directory;    // made if it does not exist; holds no weights yet
  std::string config_json;  // written as config.json
  uint64_t seed = 0;
  int64_t shard_bytes_max = int64_t{5} << 30;
  unsigned threads = 1;
};

struct SynthSummary {
  int64_t tensors = 0;
  int64_t shards = 0;
  int64_t bytes = 0;  // of the shards
};

// Writes a checkpoint in the Hugging Face layout: config.json, shards, index (one shard: a single
// model.safetensors). `on_progress` is called on the caller's thread. ALREADY_EXISTS when the
// directory has weights.
Result<SynthSummary> write_synthetic_checkpoint(
    const SynthOptions& options,
    const std::function<void(int64_t bytes_done, int64_t bytes_total)>& on_progress);

}  // namespace fathom
