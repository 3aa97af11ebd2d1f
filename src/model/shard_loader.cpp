// Reading a rank's slices.
#include "model/shard_loader.h"

#include <algorithm>

#include "base/float_formats.h"

namespace fathom {
namespace {

// Appends a vector's numbers; a source of shapes alone has none.
Status append_floats(const Tensor& from, std::vector<float>& to) {
  const int64_t n = from.elements();
  for (int64_t i = 0; i < n; ++i) {
    if (from.data == nullptr) {
      to.push_back(0.0F);
      continue;
    }
    switch (from.dtype) {
      case DType::kF32: to.push_back(from.as<float>()[i]); break;
      case DType::kBF16: to.push_back(bf16_to_float(from.as<uint16_t>()[i])); break;
      case DType::kF16: to.push_back(f16_to_float(from.as<uint16_t>()[i])); break;
      default: return unimplemented("must be BF16, F16 or F32");
    }
  }
  return Status::ok();
}

Status naming(const Status& status, const std::string& name) {
  if (status.is_ok() || status.message().find(name) != std::string::npos) return status;
  return Status(status.code(), name + ": " + status.message()).about(name);
}

}  // namespace

void ShardLoader::count(int64_t bytes) {
  bytes_done_ = std::min(bytes_done_ + bytes, bytes_total_);
  if (options_.on_progress) options_.on_progress(bytes_done_, bytes_total_);
}

Result<HostWeight> ShardLoader::read(const WeightSlice& slice) {
  auto info = source_.info(slice.name);
  if (!info.is_ok()) return naming(info.status(), slice.name);
  if (info->rank != 2) {
    return data_loss("tensor " + slice.name + " must have two dimensions").about(slice.name);
  }
  const Span rows = slice.rows.size() > 0 ? slice.rows : Span{0, info->shape[0]};
  const Span columns = slice.columns.size() > 0 ? slice.columns : Span{0, info->shape[1]};
  auto weight = ops_.reads_bytes() ? source_.map_weight(slice.name, rows, columns)
                                   : source_.read_weight(slice.name, rows, columns);
  if (!weight.is_ok()) return naming(weight.status(), slice.name);
  return weight;
}

Result<Weight> ShardLoader::linear(const std::vector<WeightSlice>& slices) {
  std::vector<HostWeight> parts;
  for (const WeightSlice& slice : slices) {
    FATHOM_ASSIGN(HostWeight part, read(slice));
    parts.push_back(std::move(part));
  }
  auto weight = ops_.prepare_linear(parts);
  if (!weight.is_ok()) return naming(weight.status(), slices.front().name);
  for (const HostWeight& part : parts) count(part.values.view.bytes());
  return weight;
}

Status ShardLoader::pack(const Weight& weight, bool gated) {
  return options_.pack_weights ? ops_.pack_linear(weight, gated) : Status::ok();
}

Result<MlaUpProjection> ShardLoader::kv_b(const WeightSlice& slice, int32_t heads,
                                          int32_t nope_dims, int32_t value_dims) {
  FATHOM_ASSIGN(const HostWeight weight, read(slice));
  auto up = ops_.prepare_kv_b(weight, heads, nope_dims, value_dims);
  if (!up.is_ok()) return naming(up.status(), slice.name);
  count(weight.values.view.bytes());
  return up;
}

Result<Tensor> ShardLoader::floats(const std::string& name) {
  auto tensor = source_.read(name);
  if (!tensor.is_ok()) return naming(tensor.status(), name);
  auto placed = ops_.place(*tensor, DType::kF32);
  if (!placed.is_ok()) return naming(placed.status(), name);
  count(tensor->view.bytes());
  return placed;
}

Result<Tensor> ShardLoader::table(const WeightSlice& slice) {
  FATHOM_ASSIGN(const HostWeight weight, read(slice));
  const DType dtype = weight.values.view.dtype;
  if (weight.scales || (dtype != DType::kBF16 && dtype != DType::kF32 && dtype != DType::kF16)) {
    return unimplemented("tensor " + slice.name + " must be BF16, F16 or F32").about(slice.name);
  }
  const DType as = dtype == DType::kF16 ? DType::kF32 : dtype;
  auto placed = ops_.place_table(weight, as);
  if (!placed.is_ok()) return naming(placed.status(), slice.name);
  count(weight.values.view.bytes());
  return placed;
}

Result<Tensor> ShardLoader::floats(const std::vector<VectorSlice>& slices) {
  std::vector<float> values;
  for (const VectorSlice& slice : slices) {
    auto tensor = source_.read(slice.name);
    if (!tensor.is_ok()) return naming(tensor.status(), slice.name);
    if (tensor->view.rank != 1 || slice.elements.end > tensor->view.shape[0]) {
      return data_loss("tensor " + slice.name + " must be a vector of at least " +
                       std::to_string(slice.elements.end) + " elements")
          .about(slice.name);
    }
    const Tensor part = tensor->view.rows(slice.elements.begin, slice.elements.size());
    FATHOM_RETURN_IF_ERROR(naming(append_floats(part, values), slice.name));
    count(part.bytes());
  }
  const auto n = static_cast<int64_t>(values.size());
  return ops_.place({Tensor::of(values.data(), DType::kF32, {n}), nullptr}, DType::kF32);
}

Result<RopeTable> ShardLoader::rope(const RopeConfig& config) {
  const RopeTables tables = make_rope_tables(config, std::max(1, options_.tokens_max));
  RopeTable placed;
  FATHOM_ASSIGN(placed.cosines, ops_.place(tables.cosines, DType::kF32));
  FATHOM_ASSIGN(placed.sines, ops_.place(tables.sines, DType::kF32));
  return placed;
}

}  // namespace fathom
