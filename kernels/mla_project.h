// Per-head projections around MLA's decode attention, on tensor cores: queries into the latent's
// space, and weighted latents to values.
#pragma once

#include "format.h"

namespace fathom::kernels {

// out[t, h, :columns] = x[t, h, :inner] times weights[h] transposed. All bf16 but `out`.
struct HeadProjection {
  const void* x = nullptr;  // row t, head h at t * x_stride + h * x_head_stride
  int64_t x_stride = 0;
  int64_t x_head_stride = 0;
  const void* weights = nullptr;  // [heads, columns, inner]
  int32_t heads = 0;
  int32_t columns = 0;  // multiple of 64
  int32_t inner = 0;    // multiple of 128
  int64_t tokens = 0;
  // [tokens]. Tokens of rows outside [first_row, end_row) are left alone, others that are not valid
  // get zeros; null: all are meant.
  const int32_t* token_row = nullptr;
  const uint8_t* valid = nullptr;
  int32_t first_row = 0;
  int32_t end_row = 0;
  void* out = nullptr;  // bf16 or f32
  Format out_format = Format::kF32;
  int64_t out_stride = 0;
  int64_t out_head_stride = 0;
};

// Whether the kernel takes it: sizes as said above, rows on 16-byte boundaries.
bool can_project_heads(const HeadProjection& p);
cudaError_t project_heads(cudaStream_t stream, const HeadProjection& p);

}  // namespace fathom::kernels
