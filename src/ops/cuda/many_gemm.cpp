// Products of many rows in e4m3 on the kernel of our own.
#include "kernels/many_gemm.h"

#include "kernels/steps.h"
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

ManyProblem problem_of(const Act& x, const Weight& weight, bool gated) {
  ManyProblem p;
  p.rows = x.data.shape[0];
  p.out = weight.out();
  p.in = weight.in();
  p.weight = weight.format;
  p.act = x.spec.format;
  p.gated = gated;
  p.aligned = aligned(x.data) && aligned(weight.values);
  return p;
}

}  // namespace

// Shared items' sums lie in cuBLASLt's workspace: products run one after another. Peaks of logits
// lie at its end: `sample` reads them before the next product.
Status CudaOps::make_many_gemm() {
  constexpr int64_t kPeakBytes = kLogitPeakRows * kernels::kSamplePeaks * int64_t{sizeof(float)};
  if (large_workspace_.data == nullptr ||
      large_workspace_.elements() < kernels::many_sums_bytes(sms_ / 2) + kPeakBytes) {
    return Status::ok();
  }
  logit_peaks_ = reinterpret_cast<float*>(large_workspace_.as<std::byte>() +
                                          large_workspace_.elements() - kPeakBytes);
  FATHOM_ASSIGN(const Tensor words, reserve(DType::kI32, {kernels::many_words(sms_ / 2)}));
  many_words_ = words.as<uint32_t>();
  return Status::ok();
}

bool CudaOps::run_many(ManyProblem p, kernels::ManyCall call, Tensor* scales_by_group) {
  p.shares = many_words_ != nullptr;
  p.deterministic = deterministic_;
  p.sms = sms_;
  p.hopper = hopper_;
  if (!choose_many(p)) return false;
  call.rows = p.rows;
  call.gated = p.gated;
  if (p.shares) {
    call.sums = large_workspace_.as<float>();
    call.words = many_words_;
  }
  // As a product of cuBLASLt takes them: all rows, in fours (choose_gemm.cpp).
  if (scales_by_group != nullptr && large_ != nullptr && p.rows % 4 == 0 &&
      call.out.format == kernels::Format::kFp8) {
    *scales_by_group = arena_.take(DType::kF32, {p.out / 256, p.rows});
    call.scales_by_group = scales_by_group->as<float>();
  }
  check(kernels::many_gemm(stream_, call, sms_), "many_gemm");
  return true;
}

bool CudaOps::multiply_many(const Act& x, const Weight& weight, bool gated,
                            const kernels::Epilogue& out, Tensor* scales_by_group) {
  const bool bf16 = out.format == kernels::Format::kBF16;
  if (weight.format != WeightFormat::kFp8Block || x.spec.format != ActFormat::kFp8Block ||
      out.first_column_in_block != 0 || !(bf16 || (gated && out.format == kernels::Format::kFp8))) {
    return false;
  }
  ManyProblem p = problem_of(x, weight, gated);
  p.whole_blocks = weight.first_column_in_block == 0 && x.spec.first_column_in_block == 0 &&
                   weight.scales.shape[0] * 128 == weight.out();
  p.aligned = p.aligned && aligned(x.scales) && aligned(weight.scales) && aligned(out);
  kernels::ManyCall call;
  call.x = rows_of(x);
  call.w = matrix_of(weight);
  call.out = out;
  return run_many(p, call, scales_by_group);
}

bool CudaOps::multiply_exact(const Act& x, const Weight& weight, const kernels::Rows& out) {
  if (weight.format != WeightFormat::kBF16 || x.spec.format != ActFormat::kBF16 ||
      out.format != kernels::Format::kF32) {
    return false;
  }
  ManyProblem p = problem_of(x, weight, false);
  p.float_out = true;
  p.aligned = p.aligned && aligned(out.data, out.stride * 4);
  kernels::ManyCall call;
  call.x = rows_of(x);
  call.w = matrix_of(weight);
  call.out = {out.data, out.format, out.stride};
  const bool peaks =
      logit_peaks_ != nullptr && p.rows <= kLogitPeakRows && p.out / 128 <= kernels::kSamplePeaks;
  if (peaks) {
    call.peaks = logit_peaks_;
    call.peak_stride = kernels::kSamplePeaks;
  }
  if (!run_many(p, call)) return false;
  peaked_logits_ = peaks ? out.data : nullptr;
  return true;
}

}  // namespace fathom
