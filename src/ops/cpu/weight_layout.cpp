// Layout, scales and conversions of weights on the host.
#include "ops/cpu/weight_layout.h"

#include <algorithm>
#include <cstring>

#include "base/float_formats.h"

namespace fathom {

float weight_value(const Tensor& t, int64_t i) {
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

void convert_values(const Tensor& from, int64_t at, int64_t n, DType as, void* to, int64_t to_at) {
  if (n == 0) return;  // an empty tensor may have no data
  if (from.dtype == as) {
    const int64_t size = dtype_bytes(as);
    std::memcpy(static_cast<std::byte*>(to) + to_at * size, from.as<std::byte>() + at * size,
                static_cast<size_t>(n * size));
    return;
  }
  for (int64_t i = 0; i < n; ++i) {
    const float x = weight_value(from, at + i);
    if (as == DType::kF32) {
      static_cast<float*>(to)[to_at + i] = x;
    } else {
      static_cast<uint16_t*>(to)[to_at + i] = float_to_bf16(x);
    }
  }
}

Result<WeightFormat> weight_format(const HostWeight& part) {
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

int64_t scale_row_of(const HostWeight& part, int64_t row) {
  return (part.first_row_in_block + row) / part.block_rows;
}

Status check_weight_part(const HostWeight& part, const HostWeight& first) {
  const int64_t columns = part.values.view.shape[1];
  if (columns != first.values.view.shape[1] || part.block_columns != first.block_columns ||
      part.first_column_in_block != first.first_column_in_block) {
    return invalid_argument("weights to be joined differ in their input columns");
  }
  if (!part.scales) return Status::ok();
  const Tensor& scales = part.scales->view;
  const int64_t rows = scale_row_of(part, part.values.view.shape[0] - 1) + 1;
  const int64_t blocks =
      (part.first_column_in_block + columns + part.block_columns - 1) / part.block_columns;
  if (scales.rank != 2 || scales.shape[0] < rows || scales.shape[1] < blocks) {
    return invalid_argument("a weight's scales do not cover its blocks");
  }
  return Status::ok();
}

Status check_fp8(std::span<const uint8_t> codes) {
  // Without a branch in the loop, which then runs at the memory's speed.
  uint8_t found = 0;
  for (const uint8_t code : codes) found |= static_cast<uint8_t>((code & 0x7F) == 0x7F ? 1 : 0);
  return found == 0 ? Status::ok() : data_loss("an FP8 weight holds NaN");
}

Result<Weight> weight_layout(const std::vector<HostWeight>& parts) {
  FATHOM_CHECK(!parts.empty(), "prepare_linear without parts");
  const HostWeight& first = parts.front();
  Weight w;
  FATHOM_ASSIGN(w.format, weight_format(first));
  int64_t rows = 0;
  int64_t scale_rows = 0;
  for (const HostWeight& part : parts) {
    FATHOM_ASSIGN(const WeightFormat format, weight_format(part));
    if (format != w.format) return invalid_argument("weights to be joined differ in format");
    FATHOM_RETURN_IF_ERROR(check_weight_part(part, first));
    rows += part.values.view.shape[0];
    scale_rows += scale_row_of(part, part.values.view.shape[0] - 1) + 1;
  }
  const int64_t columns = first.values.view.shape[1];
  const DType dtype = w.format == WeightFormat::kFp8Block ? DType::kF8E4M3
                      : w.format == WeightFormat::kBF16   ? DType::kBF16
                                                          : DType::kF32;
  w.values = Tensor::of(nullptr, dtype, {rows, columns});
  if (w.format != WeightFormat::kFp8Block) return w;
  w.block_columns = first.block_columns;
  w.first_column_in_block = first.first_column_in_block;
  w.ue8m0_activations = first.ue8m0_activations;
  const int64_t blocks =
      (w.first_column_in_block + columns + w.block_columns - 1) / w.block_columns;
  w.scales = Tensor::of(nullptr, DType::kF32, {scale_rows, blocks});
  w.scale_rows = Tensor::of(nullptr, DType::kI32, {rows});
  return w;
}

void copy_scales(const std::vector<HostWeight>& parts, const Weight& to) {
  int64_t out = 0;
  int64_t scale_row = 0;
  for (const HostWeight& part : parts) {
    const Tensor& from = part.scales->view;
    const int64_t rows = part.values.view.shape[0];
    for (int64_t row = 0; row < rows; ++row) {
      to.scale_rows.as<int32_t>()[out++] =
          static_cast<int32_t>(scale_row + scale_row_of(part, row));
    }
    const int64_t scale_rows = scale_row_of(part, rows - 1) + 1;
    for (int64_t row = 0; row < scale_rows; ++row, ++scale_row) {
      convert_values(from, row * from.stride[0], to.scales.shape[1], DType::kF32, to.scales.data,
                     scale_row * to.scales.stride[0]);
    }
  }
}

}  // namespace fathom
