// Weights and activations with their number formats. The format lives in the values, not in op
// names.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "fathom/status.h"
#include "fathom/tensor.h"

namespace fathom {

// reference: float32 activations and exact products, compared with transformers.
// native: weights stay in their format, activations quantized as the format says, bfloat16 at its
// rounding points.
enum class Numerics : uint8_t { kReference, kNative };

// Whether bf16 matrices of linear layers are kept in a packed form too: the same numbers in fewer
// bytes. auto: where they are most of the weights, and the KV cache keeps half of its memory.
enum class PackWeights : uint8_t { kOff, kOn, kAuto };

enum class WeightFormat : uint8_t { kF32, kBF16, kFp8Block };

// A linear layer's matrix in backend memory, y = x Wt. Made by Ops::prepare_linear; immutable;
// owned by the backend.
struct Weight {
  WeightFormat format = WeightFormat::kBF16;
  Tensor values;      // [out, in]
  Tensor scales;      // kFp8Block: f32 [scale rows, scale columns]; w = value * scale
  Tensor scale_rows;  // kFp8Block: i32 [out], the row of `scales` that each output row uses
  int32_t block_columns = 128;        // input columns under one scale
  int32_t first_column_in_block = 0;  // a shard may start inside a scale block (models.md 4)
  bool ue8m0_activations = false;     // scale_fmt "ue8m0": activation scales are powers of two

  int64_t out() const { return values.shape[0]; }
  int64_t in() const { return values.shape[1]; }
};

enum class ActFormat : uint8_t {
  kF32,
  kBF16,
  kFp8Block
};  // kFp8Block: e4m3 with one scale per token and 128 columns

// How a consumer wants an activation; derived from its Weight at load. The producer's epilogue
// quantizes.
struct ActSpec {
  ActFormat format = ActFormat::kF32;
  bool ue8m0 = false;
  int32_t first_column_in_block =
      0;  // groups of 128 start at absolute columns, as the weight's blocks do

  bool operator==(const ActSpec&) const = default;
};

// An activation as its consumer wants it.
struct Act {
  Tensor data;    // [tokens, columns] f32, bf16 or e4m3
  Tensor scales;  // kFp8Block: f32 [tokens, groups of 128]
  ActSpec spec;
  Tensor scales_by_group = {};  // the same, f32 [groups, tokens], where a producer wrote them too
};

// A sum not yet reduced over the tensor-parallel group; only Ops::reduce_add_norm and reduce_add
// consume it.
struct Partial {
  Tensor data;        // act_dtype [tokens, hidden]
  bool open = false;  // its parts are not added yet: nothing is written to `data`
};

// Half-open range.
struct Span {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t size() const { return end - begin; }
};

// Bytes that are read when somebody wants them: a weight's values on their way to a device. Any
// thread reads, several at once.
class ByteSource {
 public:
  virtual ~ByteSource() = default;
  // Bytes [at, at + to.size()): rows behind each other, without gaps; whole elements.
  virtual Status read(int64_t at, std::span<std::byte> to) const = 0;
};

// A slice of a checkpoint's linear weight on the host, with the scales that cover it.
// `scales` covers whole blocks: its first row/column is the block that holds the slice's first
// row/column.
struct HostWeight {
  HostTensor values;                        // [rows, columns]
  std::shared_ptr<const ByteSource> bytes;  // of values, which then have no data (map_weight)
  std::optional<HostTensor> scales;         // [row blocks, column blocks] f32
  int32_t block_rows = 128;
  int32_t block_columns = 128;
  int32_t first_row_in_block = 0;
  int32_t first_column_in_block = 0;
  bool ue8m0_activations = false;
};

// Where a model's tensors come from: a checkpoint on disk, or generated values. Thread-safe for
// reads.
class WeightSource {
 public:
  virtual ~WeightSource() = default;

  virtual bool has(const std::string& name) const = 0;
  // Shape and dtype of `name` as stored.
  virtual Result<Tensor> info(const std::string& name) const = 0;
  // The whole tensor.
  virtual Result<HostTensor> read(const std::string& name) const = 0;
  // Rows and columns of the 2-D tensor `name` (".weight") with its scale blocks, if it has
  // `.weight_scale_inv`.
  virtual Result<HostWeight> read_weight(const std::string& name, Span rows,
                                         Span columns) const = 0;
  // The same, where the source can, with the values as HostWeight::bytes.
  virtual Result<HostWeight> map_weight(const std::string& name, Span rows, Span columns) const {
    return read_weight(name, rows, columns);
  }
  // Every tensor's name, sorted; empty when values are made for any name.
  virtual std::vector<std::string> names() const { return {}; }
};

}  // namespace fathom
