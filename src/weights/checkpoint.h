// A model directory on disk as a WeightSource: shards mapped read-only, index checked against them,
// slices handed out as views wherever the bytes allow it. Immutable after open; any thread reads.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "fathom/weight.h"
#include "weights/quantization.h"
#include "weights/safetensors.h"

namespace fathom {

class Checkpoint final : public WeightSource {
 public:
  // `directory` holds config.json and model.safetensors, or model.safetensors.index.json and its
  // shards. Errors name the file and the tensor: a missing shard, a tensor that the index puts
  // where it is not, one that two shards hold, a directory with pickled weights only, a
  // quantization that Fathom does not load.
  static Result<std::shared_ptr<const Checkpoint>> open(const std::string& directory);

  bool has(const std::string& name) const override { return tensors_.contains(name); }
  // A scalar is [1]. UNIMPLEMENTED for more than four dimensions.
  Result<Tensor> info(const std::string& name) const override;
  Result<HostTensor> read(const std::string& name) const override;
  // Rows are a view of the mapping; so are columns, with the row stride of the whole tensor. A
  // tensor that is not aligned for its dtype is copied. NOT_FOUND, INVALID_ARGUMENT (not 2-D, span
  // out of range), DATA_LOSS (F8_E4M3 without fitting scales).
  Result<HostWeight> read_weight(const std::string& name, Span rows, Span columns) const override;

  // The values as reads of the shard's file; scales as in read_weight.
  Result<HostWeight> map_weight(const std::string& name, Span rows, Span columns) const override;

  const QuantizationConfig& quantization() const { return quantization_; }
  // Sorted.
  std::vector<std::string> names() const override;
  const std::vector<std::shared_ptr<const SafetensorsFile>>& shards() const { return shards_; }
  // Bytes of all tensors.
  int64_t total_bytes() const;
  // The stored bytes of `name` in its mapping, or an empty span.
  std::span<const std::byte> mapped_bytes(const std::string& name) const;
  // Oddities that do not stop a load, as sentences (tensors in a shard that the index leaves out).
  const std::vector<std::string>& warnings() const { return warnings_; }

 private:
  struct Place {
    std::shared_ptr<const SafetensorsFile> file;
    const TensorEntry* entry = nullptr;
  };

  Checkpoint() = default;
  Status open_single(const std::string& path);
  Status open_sharded(const std::string& directory, const std::string& index_path);
  Status add_shard(std::shared_ptr<const SafetensorsFile> shard,
                   const std::unordered_map<std::string, std::string>& weight_map,
                   const std::string& shard_name);
  Result<Place> find(const std::string& name) const;
  // The stored matrix `name`, with the spans checked.
  Result<Tensor> matrix_of(const std::string& name, const Place& place, Span rows,
                           Span columns) const;
  Status add_scales(const std::string& name, const Tensor& all, Span rows, Span columns,
                    HostWeight& to) const;
  Result<HostTensor> scales_of(const std::string& name, const Tensor& weight, Span row_blocks,
                               Span column_blocks) const;

  std::vector<std::shared_ptr<const SafetensorsFile>> shards_;
  std::unordered_map<std::string, Place> tensors_;
  QuantizationConfig quantization_;
  std::vector<std::string> warnings_;
};

// Copies `view` (strides and all) into an owned, contiguous, 64-byte aligned buffer.
HostTensor copy_to_host(const Tensor& view);
// Zeroed and aligned.
HostTensor allocate_host(DType dtype, std::initializer_list<int64_t> shape);

}  // namespace fathom
