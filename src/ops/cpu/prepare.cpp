// Load time: weights move from a checkpoint's layout into this backend's memory.
#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "base/float_formats.h"
#include "ops/cpu/cpu_ops_impl.h"
#include "ops/cpu/weight_layout.h"

namespace fathom {
namespace {

bool is_float(DType t) {
  return t == DType::kF32 || t == DType::kBF16 || t == DType::kF16 || t == DType::kF8E4M3;
}

// Rows of every part below each other.
Status copy_values(const std::vector<HostWeight>& parts, const Tensor& to) {
  int64_t out = 0;
  for (const HostWeight& part : parts) {
    const Tensor& from = part.values.view;
    for (int64_t row = 0; row < from.shape[0]; ++row, ++out) {
      convert_values(from, row * from.stride[0], from.shape[1], to.dtype, to.data,
                     out * to.stride[0]);
    }
  }
  if (to.dtype != DType::kF8E4M3) return Status::ok();
  return check_fp8({to.as<uint8_t>(), static_cast<size_t>(to.elements())});
}

}  // namespace

void CpuOps::Unmap::operator()(std::byte* p) const { ::munmap(p, size); }

CpuOps::CpuOps(const CpuOpsOptions& options)
    : numerics_(options.numerics),
      products_(options.instructions),
      pool_(std::max(1, options.threads)) {
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
  convert_values(from, 0, from.elements(), as, to.data, 0);
  void* data = to.data;
  to = from;
  to.data = data;
  to.dtype = as;
  return to;
}

Result<Weight> CpuOps::prepare_linear(const std::vector<HostWeight>& parts) {
  FATHOM_ASSIGN(Weight w, weight_layout(parts));
  FATHOM_ASSIGN(w.values, reserve(w.values.dtype, {w.out(), w.in()}));
  FATHOM_RETURN_IF_ERROR(copy_values(parts, w.values));
  if (w.format != WeightFormat::kFp8Block) return w;
  FATHOM_ASSIGN(w.scales, reserve(DType::kF32, {w.scales.shape[0], w.scales.shape[1]}));
  FATHOM_ASSIGN(w.scale_rows, reserve(DType::kI32, {w.out()}));
  copy_scales(parts, w);
  return w;
}

Result<MlaUpProjection> CpuOps::prepare_kv_b(const HostWeight& kv_b, int32_t heads,
                                             int32_t nope_dims, int32_t value_dims) {
  FATHOM_ASSIGN(const WeightFormat format, weight_format(kv_b));
  FATHOM_RETURN_IF_ERROR(check_weight_part(kv_b, kv_b));
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
    convert_values(from, row * from.stride[0], columns, DType::kF32, w, 0);
    if (format == WeightFormat::kFp8Block) {
      const Tensor& scales = kv_b.scales->view;
      const int64_t scale_row = scale_row_of(kv_b, row) * scales.stride[0];
      for (int64_t k = 0; k < columns; ++k) {
        w[k] *=
            weight_value(scales, scale_row + (kv_b.first_column_in_block + k) / kv_b.block_columns);
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
