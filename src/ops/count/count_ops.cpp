// Load time and the report.
#include "ops/count/count_ops.h"

#include <algorithm>

namespace fathom {
namespace {

Tensor null_like(const Tensor& t, DType dtype) {
  Tensor out = t;
  out.data = nullptr;
  out.dtype = dtype;
  int64_t step = 1;
  for (int i = out.rank - 1; i >= 0; --i) {
    out.stride[i] = step;
    step *= out.shape[i];
  }
  return out;
}

Result<WeightFormat> format_of(const HostWeight& part) {
  switch (part.values.view.dtype) {
    case DType::kF32: return WeightFormat::kF32;
    case DType::kBF16:
    case DType::kF16: return WeightFormat::kBF16;
    case DType::kF8E4M3:
      if (part.scales) return WeightFormat::kFp8Block;
      return invalid_argument("an F8_E4M3 weight has no scales");
    default:
      return invalid_argument("a weight's dtype " +
                              std::string(dtype_name(part.values.view.dtype)) +
                              " is not that of a matrix");
  }
}

int64_t blocks(int64_t first, int64_t count, int32_t block) {
  return (first + count + block - 1) / block;
}

}  // namespace

CountOps::CountOps(const CountOptions& options)
    : options_(options),
      cpu_scratch_(options.numerics, options.threads),
      scratch_(options.scratch != nullptr ? *options.scratch : cpu_scratch_) {}

void CountOps::take_scratch(int64_t bytes) {
  ArenaScope scope(arena_);
  arena_.take(DType::kU8, {bytes});
}

int64_t weight_bytes(const Weight& w) {
  int64_t bytes = w.values.defined() ? w.values.bytes() : 0;
  if (w.scales.defined()) bytes += w.scales.bytes() + w.scale_rows.bytes();
  return bytes;
}

int64_t act_bytes(const Act& act) {
  return act.data.bytes() + (act.scales.defined() ? act.scales.bytes() : 0);
}

OpCount& CountOps::called(std::string_view op) {
  auto found = std::find_if(lines_.begin(), lines_.end(),
                            [&](const OpCount& line) { return line.op == op; });
  if (found == lines_.end()) found = lines_.insert(lines_.end(), OpCount{op});
  ++found->calls;
  return *found;
}

CountReport CountOps::report() const {
  CountReport report;
  report.weight_bytes = weight_bytes_;
  report.packed_bytes = packed_bytes_;
  report.reserved_bytes = reserved_bytes_;
  report.arena_peak_bytes = arena_.peak();
  report.ops = lines_;
  for (const OpCount& line : lines_) {
    report.flops += line.flops;
    report.bytes += line.bytes_read + line.bytes_written;
  }
  return report;
}

void CountOps::reset_steps() {
  FATHOM_CHECK(arena_.used() == 0, "steps are forgotten between steps only");
  arena_ = Arena();
  lines_.clear();
}

Result<Weight> CountOps::prepare_linear(const std::vector<HostWeight>& parts) {
  FATHOM_CHECK(!parts.empty(), "prepare_linear without parts");
  const HostWeight& first = parts.front();
  Weight w;
  FATHOM_ASSIGN(w.format, format_of(first));
  int64_t rows = 0;
  int64_t scale_rows = 0;
  for (const HostWeight& part : parts) {
    FATHOM_ASSIGN(const WeightFormat format, format_of(part));
    if (format != w.format) return invalid_argument("weights to be joined differ in format");
    rows += part.values.view.shape[0];
    scale_rows += blocks(part.first_row_in_block, part.values.view.shape[0], part.block_rows);
  }
  const int64_t columns = first.values.view.shape[1];
  const DType dtype = w.format == WeightFormat::kFp8Block ? DType::kF8E4M3
                      : w.format == WeightFormat::kBF16   ? DType::kBF16
                                                          : DType::kF32;
  w.values = Tensor::of(nullptr, dtype, {rows, columns});
  if (w.format == WeightFormat::kFp8Block) {
    w.block_columns = first.block_columns;
    w.first_column_in_block = first.first_column_in_block;
    w.ue8m0_activations = first.ue8m0_activations;
    const int64_t column_blocks = blocks(w.first_column_in_block, columns, w.block_columns);
    w.scales = Tensor::of(nullptr, DType::kF32, {scale_rows, column_blocks});
    w.scale_rows = Tensor::of(nullptr, DType::kI32, {rows});
  }
  weight_bytes_ += fathom::weight_bytes(w);
  return w;
}

Status CountOps::pack_linear(const Weight& weight, bool gated) {
  packed_bytes_ += scratch_.packed(weight, gated);
  return Status::ok();
}

Result<MlaUpProjection> CountOps::prepare_kv_b(const HostWeight& kv_b, int32_t heads,
                                               int32_t nope_dims, int32_t value_dims) {
  const int64_t columns = kv_b.values.view.shape[1];
  if (kv_b.values.view.shape[0] != int64_t{heads} * (nope_dims + value_dims)) {
    return invalid_argument("kv_b has rows for another number of heads");
  }
  MlaUpProjection up;
  up.key = Tensor::of(nullptr, act_dtype(), {heads, nope_dims, columns});
  up.value = Tensor::of(nullptr, act_dtype(), {heads, value_dims, columns});
  weight_bytes_ += up.key.bytes() + up.value.bytes();
  return up;
}

Result<Tensor> CountOps::place(const HostTensor& tensor, DType as) {
  const Tensor t = null_like(tensor.view, as);
  weight_bytes_ += t.bytes();
  return t;
}

Result<Tensor> CountOps::reserve(DType dtype, std::initializer_list<int64_t> shape) {
  const Tensor t = Tensor::of(nullptr, dtype, shape);
  reserved_bytes_ += t.bytes();
  return t;
}

ActSpec CountOps::act_spec(const Weight& weight) const {
  return act_spec_of(weight, options_.numerics);
}

}  // namespace fathom
