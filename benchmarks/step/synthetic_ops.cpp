// Weights in place: values as the CPU backend lays them out, their numbers from the GPU.
#include "synthetic_ops.h"

#include <cmath>
#include <cstring>

#include "random_fill.h"

namespace fathom::bench {
namespace {

constexpr float kE4m3Largest = 448.0F;
const float kSqrt3 = std::sqrt(3.0F);

int64_t scale_rows_of(const HostWeight& part) {
  return (part.first_row_in_block + part.values.view.shape[0] + part.block_rows - 1) /
         part.block_rows;
}

}  // namespace

Result<std::shared_ptr<const ShapeSource>> ShapeSource::open(const std::string& directory) {
  auto source = std::make_shared<ShapeSource>();
  FATHOM_ASSIGN(source->shapes_, SyntheticSource::open(directory, 1, true));
  FATHOM_ASSIGN(source->values_, SyntheticSource::open(directory, 1, false));
  return std::shared_ptr<const ShapeSource>(std::move(source));
}

Result<HostTensor> ShapeSource::read(const std::string& name) const {
  FATHOM_ASSIGN(HostTensor tensor, values_->read(name));
  if (name.ends_with("e_score_correction_bias")) {
    std::memset(tensor.view.data, 0, static_cast<size_t>(tensor.view.bytes()));
  }
  return tensor;
}

Result<std::unique_ptr<SyntheticOps>> SyntheticOps::make(int64_t weight_bytes,
                                                         int64_t arena_bytes) {
  FATHOM_ASSIGN(std::unique_ptr<CudaOps> cuda, CudaOps::make({Numerics::kNative, arena_bytes}));
  constexpr int64_t kAlignmentBytes = int64_t{64} << 20;
  FATHOM_ASSIGN(const Tensor memory, cuda->reserve(DType::kU8, {weight_bytes + kAlignmentBytes}));
  return std::unique_ptr<SyntheticOps>(new SyntheticOps(std::move(cuda), memory));
}

Tensor SyntheticOps::random(DType dtype, std::initializer_list<int64_t> shape, float center,
                            float spread) {
  const Tensor t = memory_.take(dtype, shape);
  fill_uniform(cuda_->stream(), t, center, spread, seed_++ * 0x9E3779B9U);
  return t;
}

// Row of scales of every output row, as the parts lie below each other.
Result<Tensor> SyntheticOps::scale_rows(const std::vector<HostWeight>& parts, int64_t out) {
  std::vector<int32_t> rows;
  int64_t first = 0;
  for (const HostWeight& part : parts) {
    for (int64_t r = 0; r < part.values.view.shape[0]; ++r) {
      rows.push_back(static_cast<int32_t>(first + (part.first_row_in_block + r) / part.block_rows));
    }
    first += scale_rows_of(part);
  }
  const Tensor t = memory_.take(DType::kI32, {out});
  FATHOM_RETURN_IF_ERROR(cuda_status(cudaMemcpyAsync(t.data, rows.data(), rows.size() * 4,
                                                     cudaMemcpyHostToDevice, cuda_->stream()),
                                     "scale rows"));
  return t;
}

Result<Weight> SyntheticOps::prepare_linear(const std::vector<HostWeight>& parts) {
  const HostWeight& first = parts.front();
  const int64_t in = first.values.view.shape[1];
  const bool fp8 = first.values.view.dtype == DType::kF8E4M3;
  int64_t out = 0;
  int64_t scales = 0;
  for (const HostWeight& part : parts) {
    out += part.values.view.shape[0];
    scales += scale_rows_of(part);
  }
  const float spread = kSqrt3 / std::sqrt(static_cast<float>(in));
  Weight w;
  w.format = fp8 ? WeightFormat::kFp8Block : WeightFormat::kBF16;
  w.values = random(first.values.view.dtype, {out, in}, 0.0F, fp8 ? kE4m3Largest : spread);
  if (!fp8) {
    FATHOM_RETURN_IF_ERROR(cuda_->add_large(w));
    return w;
  }
  w.block_columns = first.block_columns;
  w.first_column_in_block = first.first_column_in_block;
  w.ue8m0_activations = first.ue8m0_activations;
  const float center = spread / kE4m3Largest;
  w.scales = random(DType::kF32, {scales, (in + 127) / 128}, center, center / 4.0F);
  FATHOM_ASSIGN(w.scale_rows, scale_rows(parts, out));
  FATHOM_RETURN_IF_ERROR(cuda_->add_large(w));
  return w;
}

Result<MlaUpProjection> SyntheticOps::prepare_kv_b(const HostWeight& kv_b, int32_t heads,
                                                   int32_t nope_dims, int32_t value_dims) {
  const int64_t in = kv_b.values.view.shape[1];
  const float spread = kSqrt3 / std::sqrt(static_cast<float>(in));
  Tensor key = random(act_dtype(), {heads, nope_dims, in}, 0.0F, spread);
  if (key.dtype == DType::kBF16) {  // as CudaOps lays it out, for tensor cores
    key.stride[1] = 1;
    key.stride[2] = nope_dims;
  }
  return MlaUpProjection{key, random(act_dtype(), {heads, value_dims, in}, 0.0F, spread)};
}

Result<Tensor> SyntheticOps::place(const HostTensor& tensor, DType as) {
  if (tensor.view.data != nullptr) return ObservedOps::place(tensor, as);
  const Tensor& t = tensor.view;
  return random(as, {t.shape[0], t.shape[1]}, 0.0F, 1.0F);
}

Result<Tensor> SyntheticOps::reserve(DType dtype, std::initializer_list<int64_t> shape) {
  FATHOM_ASSIGN(const Tensor t, ObservedOps::reserve(dtype, shape));
  const bool cache = dtype == DType::kBF16 || dtype == DType::kF8E4M3;
  if (cache) fill_uniform(cuda_->stream(), t, 0.0F, 1.0F, seed_++ * 0x9E3779B9U);
  return t;
}

}  // namespace fathom::bench
