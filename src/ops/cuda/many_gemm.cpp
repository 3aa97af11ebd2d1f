// Products of many rows in e4m3 on the kernel of our own.
#include "kernels/many_gemm.h"

#include "ops/cuda/choose_many.h"
#include "ops/cuda/cuda_ops.h"

namespace fathom {
namespace {

bool aligned(const void* data, int64_t stride_bytes) {
  return reinterpret_cast<uintptr_t>(data) % 16 == 0 && stride_bytes % 16 == 0;
}

bool aligned(const Tensor& t) { return aligned(t.data, t.stride[0] * dtype_bytes(t.dtype)); }

bool aligned(const kernels::Epilogue& out) {
  return aligned(out.data, out.stride * (out.format == kernels::Format::kFp8 ? 1 : 2));
}

}  // namespace

bool CudaOps::multiply_many(const Act& x, const Weight& weight, bool gated,
                            const kernels::Epilogue& out) {
  const bool bf16 = out.format == kernels::Format::kBF16;
  if (weight.format != WeightFormat::kFp8Block || x.spec.format != ActFormat::kFp8Block ||
      out.first_column_in_block != 0 || !(bf16 || (gated && out.format == kernels::Format::kFp8))) {
    return false;
  }
  ManyProblem p;
  p.rows = x.data.shape[0];
  p.out = weight.out();
  p.in = weight.in();
  p.weight = weight.format;
  p.act = x.spec.format;
  p.gated = gated;
  p.whole_blocks = weight.first_column_in_block == 0 && x.spec.first_column_in_block == 0 &&
                   weight.scales.shape[0] * 128 == weight.out();
  p.aligned = aligned(x.data) && aligned(x.scales) && aligned(weight.values) &&
              aligned(weight.scales) && aligned(out);
  p.deterministic = deterministic_;
  p.sms = sms_;
  p.hopper = hopper_;
  if (!choose_many(p)) return false;
  kernels::ManyCall call;
  call.x = rows_of(x);
  call.rows = p.rows;
  call.w = matrix_of(weight);
  call.gated = gated;
  call.out = out;
  check(kernels::many_gemm(stream_, call, sms_), "many_gemm");
  return true;
}

}  // namespace fathom
