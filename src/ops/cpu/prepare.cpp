// Load time: weights move from a checkpoint's layout into this backend's memory.
#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "base/float_formats.h"
#include "ops/cpu/cpu_ops_impl.h"

namespace fathom {
namespace {

bool is_float(DType t) {
  return t == DType::kF32 || t == DType::kBF16 || t == DType::kF16 || t == DType::kF8E4M3;
}

float value_at(const Tensor& t, int64_t i) {
  switch (t.dtype) {
    case DType::kF32: {
      float x = 0.0F;  // a mapped file's tensors need not be aligned
      std::memcpy(&x, t.as<std::byte>() + i * 4, 4);
      return x;
    }
    case DType::kF8E4M3: return e4m3_to_float(t.as<uint8_t>()[i]);
    default: {
      uint16_t x = 0;
      std::memcpy(&x, t.as<std::byte>() + i * 2, 2);
      return t.dtype == DType::kBF16 ? bf16_to_float(x) : f16_to_float(x);
    }
  }
}

void convert_row(const Tensor& from, int64_t at, int64_t n, DType as, void* to, int64_t to_at) {
  if (n == 0) return;  // an empty tensor may have no data
  if (from.dtype == as) {
    const int64_t size = dtype_bytes(as);
    std::memcpy(static_cast<std::byte*>(to) + to_at * size, from.as<std::byte>() + at * size,
                static_cast<size_t>(n * size));
    return;
  }
  for (int64_t i = 0; i < n; ++i) {
    const float x = value_at(from, at + i);
    if (as == DType::kF32) {
      static_cast<float*>(to)[to_at + i] = x;
    } else {
      static_cast<uint16_t*>(to)[to_at + i] = float_to_bf16(x);
    }
  }
}

Result<WeightFormat> format_of(const HostWeight& part) {
  const DType dtype = part.values.view.dtype;
  if (part.values.view.rank != 2) return invalid_argument("a linear weight must have rank 2");
  if (dtype == DType::kF8E4M3) {
    if (!part.scales) return invalid_argument("an FP8 weight has no scales");
    if (part.block_columns != 128) {
      return unimplemented("FP8 scale blocks must be 128 columns wide, as activations' groups are");
    }
    return WeightFormat::kFp8Block;
  }
  if (part.scales) return invalid_argument("a weight with scales must be FP8 e4m3");
  if (dtype == DType::kBF16) return WeightFormat::kBF16;
  if (dtype == DType::kF32 || dtype == DType::kF16) return WeightFormat::kF32;
  return invalid_argument("a weight must be F32, F16, BF16 or F8_E4M3");
}

int64_t block_row(const HostWeight& part, int64_t row) {
  return (part.first_row_in_block + row) / part.block_rows;
}

Status check_part(const HostWeight& part, const HostWeight& first) {
  const int64_t columns = part.values.view.shape[1];
  if (columns != first.values.view.shape[1] || part.block_columns != first.block_columns ||
      part.first_column_in_block != first.first_column_in_block) {
    return invalid_argument("weights to be joined differ in their input columns");
  }
  if (!part.scales) return Status::ok();
  const Tensor& scales = part.scales->view;
  const int64_t rows = block_row(part, part.values.view.shape[0] - 1) + 1;
  const int64_t blocks =
      (part.first_column_in_block + columns + part.block_columns - 1) / part.block_columns;
  if (scales.rank != 2 || scales.shape[0] < rows || scales.shape[1] < blocks) {
    return invalid_argument("a weight's scales do not cover its blocks");
  }
  return Status::ok();
}

// Rows of every part below each other.
Status copy_values(const std::vector<HostWeight>& parts, const Tensor& to) {
  int64_t out = 0;
  for (const HostWeight& part : parts) {
    const Tensor& from = part.values.view;
    for (int64_t row = 0; row < from.shape[0]; ++row, ++out) {
      convert_row(from, row * from.stride[0], from.shape[1], to.dtype, to.data, out * to.stride[0]);
    }
  }
  if (to.dtype != DType::kF8E4M3) return Status::ok();
  const uint8_t* codes = to.as<uint8_t>();
  if (std::any_of(codes, codes + to.elements(), [](uint8_t c) { return (c & 0x7F) == 0x7F; })) {
    return data_loss("an FP8 weight holds NaN");
  }
  return Status::ok();
}

void copy_scales(const std::vector<HostWeight>& parts, const Weight& to) {
  int64_t out = 0;
  int64_t scale_row = 0;
  for (const HostWeight& part : parts) {
    const Tensor& from = part.scales->view;
    const int64_t rows = part.values.view.shape[0];
    for (int64_t row = 0; row < rows; ++row) {
      to.scale_rows.as<int32_t>()[out++] = static_cast<int32_t>(scale_row + block_row(part, row));
    }
    const int64_t scale_rows = block_row(part, rows - 1) + 1;
    for (int64_t row = 0; row < scale_rows; ++row, ++scale_row) {
      convert_row(from, row * from.stride[0], to.scales.shape[1], DType::kF32, to.scales.data,
                  scale_row * to.scales.stride[0]);
    }
  }
}

}  // namespace

void CpuOps::Unmap::operator()(std::byte* p) const { ::munmap(p, size); }

CpuOps::CpuOps(const CpuOpsOptions& options)
    : numerics_(options.numerics), pool_(std::max(1, options.threads)) {
  Result<Tensor> memory = reserve(DType::kU8, {options.arena_bytes});
  FATHOM_CHECK(memory.is_ok(), "no memory for the step arena");
  arena_ = Arena(memory->data, options.arena_bytes);
}

std::unique_ptr<Ops> make_cpu_ops(const CpuOpsOptions& options) {
  return std::make_unique<CpuOps>(options);
}

Result<Tensor> CpuOps::reserve(DType dtype, std::initializer_list<int64_t> shape) {
  Tensor t = Tensor::of(nullptr, dtype, shape);
  // Pages come zeroed from the kernel when they are first written: a large cache costs no start-up.
  const auto size = static_cast<size_t>(std::max<int64_t>(t.bytes(), 1));
  void* p = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) {
    return resource_exhausted("no memory for " + std::to_string(size) + " bytes");
  }
  memory_.emplace_back(static_cast<std::byte*>(p), Unmap{size});
  t.data = p;
  return t;
}

Result<Tensor> CpuOps::place(const HostTensor& tensor, DType as) {
  const Tensor& from = tensor.view;
  const bool same = from.dtype == as;
  if (!same && !(is_float(from.dtype) && (as == DType::kF32 || as == DType::kBF16))) {
    return invalid_argument("a tensor's dtype cannot be converted");
  }
  FATHOM_ASSIGN(Tensor to, reserve(as, {from.elements()}));
  convert_row(from, 0, from.elements(), as, to.data, 0);
  void* data = to.data;
  to = from;
  to.data = data;
  to.dtype = as;
  return to;
}

Result<Weight> CpuOps::prepare_linear(const std::vector<HostWeight>& parts) {
  FATHOM_CHECK(!parts.empty(), "prepare_linear without parts");
  const HostWeight& first = parts.front();
  Weight w;
  FATHOM_ASSIGN(w.format, format_of(first));
  int64_t rows = 0;
  int64_t scale_rows = 0;
  for (const HostWeight& part : parts) {
    FATHOM_ASSIGN(const WeightFormat format, format_of(part));
    if (format != w.format) return invalid_argument("weights to be joined differ in format");
    FATHOM_RETURN_IF_ERROR(check_part(part, first));
    rows += part.values.view.shape[0];
    scale_rows += block_row(part, part.values.view.shape[0] - 1) + 1;
  }
  const int64_t columns = first.values.view.shape[1];
  const DType dtype = w.format == WeightFormat::kFp8Block ? DType::kF8E4M3
                      : w.format == WeightFormat::kBF16   ? DType::kBF16
                                                          : DType::kF32;
  FATHOM_ASSIGN(w.values, reserve(dtype, {rows, columns}));
  FATHOM_RETURN_IF_ERROR(copy_values(parts, w.values));
  if (w.format != WeightFormat::kFp8Block) return w;
  w.block_columns = first.block_columns;
  w.first_column_in_block = first.first_column_in_block;
  w.ue8m0_activations = first.ue8m0_activations;
  const int64_t blocks =
      (w.first_column_in_block + columns + w.block_columns - 1) / w.block_columns;
  FATHOM_ASSIGN(w.scales, reserve(DType::kF32, {scale_rows, blocks}));
  FATHOM_ASSIGN(w.scale_rows, reserve(DType::kI32, {rows}));
  copy_scales(parts, w);
  return w;
}

Result<MlaUpProjection> CpuOps::prepare_kv_b(const HostWeight& kv_b, int32_t heads,
                                             int32_t nope_dims, int32_t value_dims) {
  FATHOM_ASSIGN(const WeightFormat format, format_of(kv_b));
  FATHOM_RETURN_IF_ERROR(check_part(kv_b, kv_b));
  const Tensor& from = kv_b.values.view;
  const int64_t columns = from.shape[1];
  if (from.shape[0] != int64_t{heads} * (nope_dims + value_dims)) {
    return invalid_argument("kv_b has rows for another number of heads");
  }
  ArenaScope scope(arena_);
  float* w = floats(columns);
  MlaUpProjection up;
  FATHOM_ASSIGN(up.key, reserve(act_dtype(), {heads, nope_dims, columns}));
  FATHOM_ASSIGN(up.value, reserve(act_dtype(), {heads, value_dims, columns}));
  for (int64_t row = 0; row < from.shape[0]; ++row) {
    const int64_t head = row / (nope_dims + value_dims);
    const int64_t at = row % (nope_dims + value_dims);
    convert_row(from, row * from.stride[0], columns, DType::kF32, w, 0);
    if (format == WeightFormat::kFp8Block) {
      const Tensor& scales = kv_b.scales->view;
      const int64_t scale_row = block_row(kv_b, row) * scales.stride[0];
      for (int64_t k = 0; k < columns; ++k) {
        w[k] *= value_at(scales, scale_row + (kv_b.first_column_in_block + k) / kv_b.block_columns);
      }
    }
    const Tensor& to = at < nope_dims ? up.key : up.value;
    const int64_t place =
        at < nope_dims ? head * nope_dims + at : head * value_dims + at - nope_dims;
    store_floats(w, columns, to.dtype, to.data, place * columns);
  }
  return up;
}

ActSpec CpuOps::act_spec(const Weight& weight) const {
  if (numerics_ == Numerics::kReference) return ActSpec{};
  if (weight.format != WeightFormat::kFp8Block) return ActSpec{ActFormat::kBF16, false, 0};
  return ActSpec{ActFormat::kFp8Block, weight.ue8m0_activations, weight.first_column_in_block};
}

}  // namespace fathom
