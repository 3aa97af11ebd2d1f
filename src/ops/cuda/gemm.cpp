// Linear layers: the chooser's kernel for each, in passes of its most rows.
#include <algorithm>

#include "kernels/dense.h"
#include "kernels/skinny_gemm.h"
#include "ops/cuda/choose_gemm.h"
#include "ops/cuda/cuda_ops.h"

namespace fathom {
namespace {

bool aligned(const void* data, int64_t stride, DType dtype) {
  return reinterpret_cast<uintptr_t>(data) % 16 == 0 && stride * dtype_bytes(dtype) % 16 == 0;
}

GemmProblem problem_of(const Act& x, const Weight& weight, int32_t sms) {
  GemmProblem p;
  p.rows = x.data.shape[0];
  p.out = weight.out();
  p.in = weight.in();
  p.weight = weight.format;
  p.act = x.spec.format;
  p.first_column_in_block = weight.first_column_in_block;
  p.aligned = aligned(x.data.data, x.data.stride[0], x.data.dtype) &&
              aligned(weight.values.data, weight.values.stride[0], weight.values.dtype);
  p.sms = sms;
  return p;
}

// Rows from `first` on.
kernels::Rows rows_from(kernels::Rows rows, int64_t first) {
  const int64_t bytes = rows.format == kernels::Format::kF32    ? 4
                        : rows.format == kernels::Format::kBF16 ? 2
                                                                : 1;
  rows.data = static_cast<std::byte*>(rows.data) + first * rows.stride * bytes;
  if (rows.scales != nullptr) rows.scales += first * rows.scale_stride;
  return rows;
}

}  // namespace

void CudaOps::multiply(const Act& x, const Weight& weight, const Tensor& out,
                       kernels::Format round) {
  FATHOM_CHECK(x.data.shape[1] == weight.in(), "activation and weight differ in columns");
  GemmProblem problem = problem_of(x, weight, sms_);
  const int64_t rows = problem.rows;
  if (choose_gemm(problem).kernel == GemmKernel::kPlain) {
    kernels::linear(stream_, rows_of(x), rows, matrix_of(weight), rows_of(out), round);
    return;
  }
  for (int64_t first = 0; first < rows; first += kernels::kSkinnyTokensMax) {
    problem.rows = std::min<int64_t>(rows - first, kernels::kSkinnyTokensMax);
    check(
        kernels::skinny_gemm(stream_, rows_from(rows_of(x), first), problem.rows, matrix_of(weight),
                             rows_from(rows_of(out), first), round, choose_gemm(problem).skinny),
        "skinny_gemm");
  }
}

}  // namespace fathom
