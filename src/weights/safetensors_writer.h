// Writes one safetensors file: the layout and the header first, then the tensors' bytes in any
// order and from any thread. Used by fathomctl synth and by tests.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"
#include "fathom/status.h"
#include "fathom/tensor.h"

namespace fathom {

struct TensorSpec {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;

  int64_t elements() const;
  int64_t bytes() const { return elements() * dtype_bytes(dtype); }
};

// `write` may be called by several threads at once, on ranges that do not overlap.
class SafetensorsWriter {
 public:
  // Creates (or truncates) `path`, gives it its full size and writes the header. Tensors lie in the
  // order of `tensors`, wider dtypes first, so that each is aligned for its dtype.
  static Result<SafetensorsWriter> create(const std::string& path, std::vector<TensorSpec> tensors);

  // In file order.
  const std::vector<TensorSpec>& tensors() const { return tensors_; }
  // Writes `bytes` at byte `offset` of tensor number `index`.
  Status write(size_t index, int64_t offset, std::span<const std::byte> bytes) const;
  // Flushes to disk and reports late write errors. The file is complete after it.
  Status finish();

  uint64_t file_bytes() const { return file_bytes_; }

 private:
  SafetensorsWriter() = default;

  std::string path_;
  UniqueFd fd_;
  std::vector<TensorSpec> tensors_;
  std::vector<uint64_t> offsets_;  // of each tensor in the file
  uint64_t file_bytes_ = 0;
};

}  // namespace fathom
