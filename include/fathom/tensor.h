// Tensor: a non-owning view of numbers in some backend's memory. Values; no thread owns them.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string_view>

#include "fathom/check.h"

namespace fathom {

enum class DType : uint8_t {
  kF32,
  kBF16,
  kF16,
  kF64,
  kF8E4M3,
  kF8E5M2,
  kE8M0,
  kBool,
  kI8,
  kU8,
  kI16,
  kI32,
  kI64,
  kU32,
  kU64,
};

constexpr int64_t dtype_bytes(DType t) {
  switch (t) {
    case DType::kF64:
    case DType::kI64:
    case DType::kU64:
      return 8;
    case DType::kF32:
    case DType::kI32:
    case DType::kU32:
      return 4;
    case DType::kBF16:
    case DType::kF16:
    case DType::kI16:
      return 2;
    default:
      return 1;
  }
}

// The name that safetensors headers use ("F8_E4M3").
std::string_view dtype_name(DType t);

// Pointer, dtype, up to four dimensions; strides in elements. `data` may be null when only shapes
// are known (CountOps). Trivially copyable.
struct Tensor {
  void* data = nullptr;
  DType dtype = DType::kF32;
  int32_t rank = 0;
  std::array<int64_t, 4> shape{};
  std::array<int64_t, 4> stride{};

  static Tensor of(void* data, DType dtype, std::initializer_list<int64_t> shape) {
    Tensor t{data, dtype, static_cast<int32_t>(shape.size()), {}, {}};
    FATHOM_CHECK(shape.size() <= 4, "tensor rank over 4");
    std::copy(shape.begin(), shape.end(), t.shape.begin());
    int64_t step = 1;
    for (int i = t.rank - 1; i >= 0; --i) {
      t.stride[i] = step;
      step *= t.shape[i];
    }
    return t;
  }

  int64_t elements() const {
    int64_t n = 1;
    for (int i = 0; i < rank; ++i) n *= shape[i];
    return n;
  }
  int64_t bytes() const { return elements() * dtype_bytes(dtype); }
  bool defined() const { return rank > 0; }

  template <typename T>
  T* as() const {
    return static_cast<T*>(data);
  }

  // Rows [first, first + count) of dimension 0.
  Tensor rows(int64_t first, int64_t count) const {
    Tensor t = *this;
    t.data = offset(first * stride[0]);
    t.shape[0] = count;
    return t;
  }
  // Columns [first, first + count) of the last dimension; keeps strides.
  Tensor columns(int64_t first, int64_t count) const {
    Tensor t = *this;
    t.data = offset(first * stride[rank - 1]);
    t.shape[rank - 1] = count;
    return t;
  }

 private:
  void* offset(int64_t elements) const {
    return data == nullptr ? nullptr
                           : static_cast<std::byte*>(data) + elements * dtype_bytes(dtype);
  }
};

// A tensor in host memory and what keeps that memory alive (a mapped file, a buffer).
struct HostTensor {
  Tensor view;
  std::shared_ptr<const void> owner;
};

}  // namespace fathom
