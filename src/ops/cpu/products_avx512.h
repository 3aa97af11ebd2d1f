// The products of matmul.h on 512-bit registers. Only for processors that have them
// (instructions.h); every bit equals the 256-bit products'.
#pragma once

#include <cstdint>

#include "ops/cpu/matmul.h"

namespace fathom::avx512 {

inline constexpr int kPanelOuts = 8;

// Floats of scratch that `matmul_part` needs: the panel decoded, and its scales.
int64_t panel_floats(const Weight& weight);

// Outputs [begin, end) of matmul; `begin` is a multiple of kPanelOuts.
void matmul_part(const Rows& x, const Weight& weight, int64_t begin, int64_t end, float* out,
                 int64_t out_stride, float* panel);

void dot_rows(const Rows& x, const Matrix& b, float scale, float* out, int64_t out_stride);

void add_product(const Rows& x, const Matrix& b, float* out, int64_t out_stride);

}  // namespace fathom::avx512
