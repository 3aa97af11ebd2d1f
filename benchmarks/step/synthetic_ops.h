// SyntheticOps: CudaOps whose weights are made on the GPU from shapes alone: a model of any size is
// there in a second. The benchmark's thread owns it.
#pragma once

#include <memory>
#include <vector>

#include "observed_ops.h"
#include "ops/cuda/cuda_ops.h"
#include "weights/synthetic.h"

namespace fathom::bench {

// Matrices have shapes and no data; vectors and routers have the values of --load-format synthetic,
// but no router prefers an expert: biases are zero.
class ShapeSource final : public WeightSource {
 public:
  static Result<std::shared_ptr<const ShapeSource>> open(const std::string& directory);

  bool has(const std::string& name) const override { return shapes_->has(name); }
  Result<Tensor> info(const std::string& name) const override { return shapes_->info(name); }
  Result<HostTensor> read(const std::string& name) const override;
  Result<HostWeight> read_weight(const std::string& name, Span rows, Span columns) const override {
    return shapes_->read_weight(name, rows, columns);
  }

 private:
  std::shared_ptr<const SyntheticSource> shapes_;
  std::shared_ptr<const SyntheticSource> values_;
};

class SyntheticOps final : public ObservedOps {
 public:
  // `weight_bytes`: of all matrices, from CountOps.
  static Result<std::unique_ptr<SyntheticOps>> make(int64_t weight_bytes, int64_t arena_bytes);

  CudaOps& cuda() { return *cuda_; }

  Result<Weight> prepare_linear(const std::vector<HostWeight>& parts) override;
  Result<MlaUpProjection> prepare_kv_b(const HostWeight& kv_b, int32_t heads, int32_t nope_dims,
                                       int32_t value_dims) override;
  Result<Tensor> place(const HostTensor& tensor, DType as) override;
  // Caches are filled, too.
  Result<Tensor> reserve(DType dtype, std::initializer_list<int64_t> shape) override;

 private:
  SyntheticOps(std::unique_ptr<CudaOps> cuda, const Tensor& memory)
      : ObservedOps(*cuda), cuda_(std::move(cuda)), memory_(memory.data, memory.bytes()) {}

  Tensor random(DType dtype, std::initializer_list<int64_t> shape, float center, float spread);
  Result<Tensor> scale_rows(const std::vector<HostWeight>& parts, int64_t out);

  std::unique_ptr<CudaOps> cuda_;
  Arena memory_;
  uint32_t seed_ = 1;
};

}  // namespace fathom::bench
