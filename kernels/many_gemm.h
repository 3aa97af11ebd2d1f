// y = x Wt for many rows of x, in e4m3 with scales of 1 x 128 (x) and 128 x 128 (W), on Hopper's
// tensor cores (docs/kernels/dense_gemm.md). Where W is a gate and an up matrix, what is stored is
// silu(gate) * up, quantized for the next product. In bf16, without scales, what is stored is
// float32: a vocabulary's logits.
#pragma once

#include "format.h"
#include "many_plan.h"

namespace fathom::kernels {

struct ManyCall {
  Rows x;  // as w's format is [rows, w.in]
  int64_t rows = 0;
  Matrix w;  // e4m3, row r's scales in row r / 128 of the scales; or bf16
  bool gated = false;
  // gated: [rows, w.out / 2] e4m3 or bf16; else bf16 [rows, w.out]. Rounded to bf16 as products. Of
  // w in bf16: float32 [rows, w.out], not gated.
  Epilogue out;
  // Gated and in e4m3: the scales once more, [w.out / 256, rows], as cuBLASLt reads them; or none.
  float* scales_by_group = nullptr;
  // In bf16: the largest of each row's 128 columns, [rows, peak_stride], or none. What is no number
  // counts as impossible; a part of 128 at the end is left out.
  float* peaks = nullptr;
  int64_t peak_stride = 0;
  // Where the last round's items may be shared: room of many_sums_bytes, and many_words words that
  // are zero when no product runs. Without, they are not.
  float* sums = nullptr;
  uint32_t* words = nullptr;
};

// Once, before any stream capture: loads the kernels and raises their shared-memory limit.
cudaError_t load_many_gemm();

// `many_gemm_fits` and `many_exact_fits` say of what; all data and strides are multiples of 16
// bytes.
cudaError_t many_gemm(cudaStream_t stream, const ManyCall& call, int32_t sms);

}  // namespace fathom::kernels
