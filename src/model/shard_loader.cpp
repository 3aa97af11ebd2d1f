// Reading a rank's slices.
#include "model/shard_loader.h"

#include <algorithm>

namespace fathom {
namespace {

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
  auto weight = source_.read_weight(slice.name, rows, columns);
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
  auto placed = ops_.place(weight.values, as);
  if (!placed.is_ok()) return naming(placed.status(), slice.name);
  count(weight.values.view.bytes());
  return placed;
}

Result<Tensor> ShardLoader::place(const HostTensor& tensor) {
  return ops_.place(tensor, tensor.view.dtype);
}

}  // namespace fathom
