// Products of 65 to some hundred rows in e4m3 on the tall kernel.
#include "kernels/tall_gemm.h"

#include "ops/cuda/choose_tall.h"
#include "ops/cuda/cuda_ops.h"

namespace fathom {
namespace {

bool aligned(const void* data, int64_t stride_bytes) {
  return reinterpret_cast<uintptr_t>(data) % 16 == 0 && stride_bytes % 16 == 0;
}

bool aligned(const Tensor& t) { return aligned(t.data, t.stride[0] * dtype_bytes(t.dtype)); }

}  // namespace

// gated: `out` is quantized; else it is bf16.
bool CudaOps::multiply_tall(const Act& x, const Weight& weight, bool gated,
                            const kernels::Epilogue& out) {
  const auto wanted = gated ? kernels::Format::kFp8 : kernels::Format::kBF16;
  if (weight.format != WeightFormat::kFp8Block || x.spec.format != ActFormat::kFp8Block ||
      out.format != wanted || out.first_column_in_block != 0) {
    return false;
  }
  TallProblem p;
  p.rows = x.data.shape[0];
  p.out = weight.out();
  p.in = weight.in();
  p.gated = gated;
  p.whole_blocks = weight.first_column_in_block == 0 && x.spec.first_column_in_block == 0 &&
                   weight.scales.shape[0] * 128 == weight.out();
  p.aligned =
      aligned(x.data) && aligned(weight.values) && aligned(out.data, out.stride * (gated ? 1 : 2));
  p.deterministic = deterministic_;
  p.hopper = hopper_;
  p.sms = sms_;
  const std::optional<kernels::TallPlan> plan = choose_tall(p);
  if (!plan) return false;
  if (gated) {
    check(
        kernels::tall_gated_gemm(stream_, rows_of(x), p.rows, matrix_of(weight), out, *plan, sms_),
        "tall_gated_gemm");
    return true;
  }
  const kernels::Rows to{out.data, out.format, out.stride, nullptr, 0};
  check(kernels::tall_gemm(stream_, rows_of(x), p.rows, matrix_of(weight), to, *plan, sms_),
        "tall_gemm");
  return true;
}

}  // namespace fathom
