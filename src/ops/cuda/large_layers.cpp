// CudaOps' side of cuBLASLt: what it is given at load, and the products that it runs.
#include <algorithm>

#include "base/log.h"
#include "kernels/dense.h"
#include "kernels/scales.h"
#include "ops/cuda/cuda_ops.h"

namespace fathom {
namespace {

using kernels::Format;

constexpr int64_t kWorkspaceBytes = int64_t{32} << 20;  // what cuBLAS asks for on Hopper
constexpr size_t kSegmentsMax = 4;

}  // namespace

// Reference numerics run on the plain kernel alone, deterministic steps on the skinny one.
Status CudaOps::make_large_gemm() {
  if (numerics_ == Numerics::kReference || deterministic_ || !with_library_) return Status::ok();
  FATHOM_ASSIGN(large_workspace_, reserve(DType::kU8, {kWorkspaceBytes}));
  large_ = LargeGemm::make({large_workspace_.data, static_cast<size_t>(kWorkspaceBytes)});
  if (large_ == nullptr) {
    Logger("cuda").warn("libcublasLt.so.13 was not found: prefill runs on slower kernels");
  }
  return Status::ok();
}

template <typename T>
Result<std::vector<T>> CudaOps::download(const Tensor& from) {
  std::vector<T> to(static_cast<size_t>(from.elements()));
  FATHOM_RETURN_IF_ERROR(cuda_status(
      cudaMemcpyAsync(to.data(), from.data, to.size() * sizeof(T), cudaMemcpyDeviceToHost, stream_),
      "download"));
  FATHOM_RETURN_IF_ERROR(synchronize());
  return to;
}

// The segment's scales with rows of a multiple of four.
Result<const float*> CudaOps::large_scales(const Weight& weight, const ScaleSegment& segment) {
  const int64_t blocks = weight.scales.shape[1];
  const int64_t padded = (blocks + 3) / 4 * 4;
  const int64_t rows = (segment.rows + 127) / 128;
  const Tensor scales = weight.scales.rows(segment.scale_row, rows);
  if (padded == blocks) return scales.as<float>();
  FATHOM_ASSIGN(const std::vector<float> values, download<float>(scales));
  std::vector<float> grid(static_cast<size_t>(rows * padded));
  for (int64_t row = 0; row < rows; ++row) {
    std::copy_n(values.begin() + row * blocks, blocks, grid.begin() + row * padded);
  }
  FATHOM_ASSIGN(const Tensor placed, upload(Tensor::of(grid.data(), DType::kF32, {rows, padded})));
  return placed.as<float>();
}

Status CudaOps::add_large(const Weight& weight) {
  if (large_ == nullptr || weight.format == WeightFormat::kF32) return Status::ok();
  std::vector<LargePart> parts;
  if (weight.format == WeightFormat::kBF16) {
    parts.push_back({0, weight.out(), nullptr});
  } else {
    if (weight.first_column_in_block != 0) return Status::ok();
    FATHOM_ASSIGN(const std::vector<int32_t> scale_rows, download<int32_t>(weight.scale_rows));
    const auto segments = scale_segments(scale_rows.data(), weight.out());
    if (segments.size() > kSegmentsMax) return Status::ok();
    for (const ScaleSegment& segment : segments) {
      FATHOM_ASSIGN(const float* scales, large_scales(weight, segment));
      parts.push_back({segment.first_row, segment.rows, scales});
    }
  }
  large_->add(stream_, matrix_of(weight), std::move(parts),
              {large_workspace_.data, static_cast<size_t>(kWorkspaceBytes)});
  return synchronize();
}

// f32 [groups, rows]: the producer's, or made here of the first rows.
const float* CudaOps::scales_by_group(const Act& x, int64_t rows) {
  if (x.scales_by_group.defined() && x.scales_by_group.shape[1] == rows) {
    return x.scales_by_group.as<float>();
  }
  const int64_t groups = x.scales.shape[1];
  float* made = floats(groups * rows);
  check(kernels::transpose_scales(stream_, x.scales.as<float>(), x.scales.stride[0], rows, groups,
                                  made),
        "transpose_scales");
  return made;
}

bool CudaOps::multiply_large(const Act& x, int64_t rows, const kernels::Matrix& weight,
                             const kernels::Rows& out, Format round) {
  ArenaScope scope(arena_);
  kernels::Rows to = out;
  to.format = round;
  if (round != out.format) {
    to.data = arena_.take(DType::kBF16, {rows, weight.out}).data;
    to.stride = weight.out;
  }
  const float* x_scales = weight.format == Format::kFp8 ? scales_by_group(x, rows) : nullptr;
  if (!large_->run(stream_, rows_of(x), rows, x_scales, weight, to)) return false;
  if (round != out.format) {
    kernels::concat(stream_, to, weight.out, to, 0, rows, static_cast<float*>(out.data));
  }
  return true;
}

}  // namespace fathom
