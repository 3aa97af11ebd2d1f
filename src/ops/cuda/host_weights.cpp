// Reading, converting and handing out host copies of weights.
#include "ops/cuda/host_weights.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "ops/cpu/weight_layout.h"

namespace fathom {
namespace {

// A matrix in memory, row after row.
class MemoryRows final : public ByteSource {
 public:
  explicit MemoryRows(HostTensor tensor) : tensor_(std::move(tensor)) {}

  Status read(int64_t at, std::span<std::byte> to) const override {
    const Tensor& t = tensor_.view;
    const int64_t item = dtype_bytes(t.dtype);
    const int64_t row_bytes = t.shape[1] * item;
    while (!to.empty()) {
      const int64_t in_row = at % row_bytes;
      const auto n = std::min(to.size(), static_cast<size_t>(row_bytes - in_row));
      const std::byte* from = t.as<std::byte>() + at / row_bytes * t.stride[0] * item + in_row;
      std::memcpy(to.data(), from, n);
      at += static_cast<int64_t>(n);
      to = to.subspan(n);
    }
    return Status::ok();
  }

 private:
  const HostTensor tensor_;
};

}  // namespace

HostTensor host_tensor(DType dtype, std::initializer_list<int64_t> shape) {
  HostTensor out{Tensor::of(nullptr, dtype, shape), nullptr};
  const auto size = static_cast<size_t>(std::max<int64_t>(out.view.bytes(), 1));
  auto memory = std::make_shared_for_overwrite<std::byte[]>(size);
  out.view.data = memory.get();
  out.owner = std::move(memory);
  return out;
}

Result<HostWeight> in_memory(const HostWeight& weight) {
  if (weight.bytes == nullptr) return weight;
  HostWeight out = weight;
  const Tensor& shape = weight.values.view;
  out.values = host_tensor(shape.dtype, {shape.shape[0], shape.shape[1]});
  out.bytes = nullptr;
  FATHOM_RETURN_IF_ERROR(weight.bytes->read(
      0, {out.values.view.as<std::byte>(), static_cast<size_t>(out.values.view.bytes())}));
  return out;
}

Result<HostWeight> stored_as(const HostWeight& weight, DType as) {
  if (weight.values.view.dtype == as) return weight;
  FATHOM_ASSIGN(HostWeight out, in_memory(weight));
  const Tensor from = out.values.view;
  const HostTensor to = host_tensor(as, {from.shape[0], from.shape[1]});
  for (int64_t row = 0; row < from.shape[0]; ++row) {
    convert_values(from, row * from.stride[0], from.shape[1], as, to.view.data,
                   row * to.view.stride[0]);
  }
  out.values = to;
  return out;
}

std::shared_ptr<const ByteSource> bytes_of(const HostWeight& weight) {
  if (weight.bytes != nullptr) return weight.bytes;
  return std::make_shared<MemoryRows>(weight.values);
}

}  // namespace fathom
