// Views that kernels are launched with. The kernels are a leaf: they know the CUDA toolkit and
// these types alone.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace fathom::kernels {

enum class Format : int32_t { kF32, kBF16, kFp8 };

// Rows of numbers in device memory; stride in elements.
struct Rows {
  void* data = nullptr;
  Format format = Format::kF32;
  int64_t stride = 0;
  const float* scales = nullptr;  // kFp8: one per row and group of 128 columns
  int64_t scale_stride = 0;
};

// y = x Wt: values [out, in]; kFp8 has a scale per scale row and 128 columns.
struct Matrix {
  const void* data = nullptr;
  Format format = Format::kF32;
  int64_t out = 0;
  int64_t in = 0;
  int64_t stride = 0;
  const float* scales = nullptr;
  const int32_t* scale_rows = nullptr;  // [out]
  int64_t scale_stride = 0;
  int32_t first_column_in_block = 0;
};

// How a row of float32 results is stored: as it is, rounded to bfloat16, or rounded to bfloat16 and
// quantized to e4m3 in groups of 128 columns that start at absolute columns.
struct Epilogue {
  void* data = nullptr;
  Format format = Format::kF32;
  int64_t stride = 0;
  float* scales = nullptr;
  int64_t scale_stride = 0;
  bool ue8m0 = false;
  int32_t first_column_in_block = 0;
};

}  // namespace fathom::kernels
