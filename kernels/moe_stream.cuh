// Rows of an expert's matrix against a tile of 8 tokens on tensor cores: one warp takes 16 rows and
// reads every weight once, 16 bytes a lane, straight from device memory.
//
// mma wants a thread's weights at columns that lie apart; a sum over columns may be taken in any
// order, so a lane's 16 neighbouring bytes serve two products, and the tokens are read in the same
// order. A block is 128 bytes of a row: 128 columns of e4m3 (one scale) or 64 of bf16.
#pragma once

#include <cstdint>

#include "format.h"

namespace fathom::kernels {

inline constexpr int kMoeBlockBytes = 128;

__device__ inline uint4 load_weights(const uint8_t* p) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p));
  return v;
}

// c += a b: a is 16 rows, b 8 tokens, of 32 bytes each.
template <Format kFormat>
__device__ void multiply(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                         uint32_t b0, uint32_t b1) {
  if constexpr (kFormat == Format::kFp8) {
    asm volatile(
        "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
  }
}

// A lane's part of one block of 16 rows: rows lane / 4 and 8 further, two halves of 64 bytes.
struct WeightBlock {
  uint4 low[2];
  uint4 high[2];
};

// 16 rows of a matrix as one lane sees them.
struct RowPointers {
  const uint8_t* low = nullptr;
  const uint8_t* high = nullptr;
  const float* low_scales = nullptr;
  const float* high_scales = nullptr;

  __device__ RowPointers(const Matrix& w, int64_t first_row, int64_t row_bytes) {
    const int lane = static_cast<int>(threadIdx.x % 32);
    const int64_t row = first_row + lane / 4;
    low = static_cast<const uint8_t*>(w.data) + row * row_bytes + 16 * (lane % 4);
    high = low + 8 * row_bytes;
    if (w.scales == nullptr) return;
    low_scales = w.scales + w.scale_rows[row] * w.scale_stride;
    high_scales = w.scales + w.scale_rows[row + 8] * w.scale_stride;
  }

  __device__ WeightBlock load(int64_t block) const {
    const int64_t at = block * kMoeBlockBytes;
    return {{load_weights(low + at), load_weights(low + at + 64)},
            {load_weights(high + at), load_weights(high + at + 64)}};
  }
};

// Tokens in shared memory: 8 rows of bytes, and their scales [block][8].
struct TokenTile {
  const uint8_t* rows = nullptr;
  int64_t row_bytes = 0;  // 64 over a multiple of 128: lanes of two rows meet no bank twice
  const float* scales = nullptr;
};

// acc[0, 1]: row lane / 4, tokens 2 * (lane % 4) and the next; acc[2, 3]: 8 rows further.
template <Format kFormat>
__device__ void multiply_block(const WeightBlock& w, const RowPointers& rows, const TokenTile& x,
                               int64_t block, float (&acc)[4]) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const uint8_t* at = x.rows + (lane / 4) * x.row_bytes + block * kMoeBlockBytes + 16 * (lane % 4);
  float part[4] = {};
  float(&c)[4] = kFormat == Format::kFp8 ? part : acc;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const uint4 b = *reinterpret_cast<const uint4*>(at + 64 * half);
    multiply<kFormat>(c, w.low[half].x, w.high[half].x, w.low[half].y, w.high[half].y, b.x, b.y);
    multiply<kFormat>(c, w.low[half].z, w.high[half].z, w.low[half].w, w.high[half].w, b.z, b.w);
  }
  if constexpr (kFormat == Format::kFp8) {
    const float2 s = *reinterpret_cast<const float2*>(x.scales + 8 * block + 2 * (lane % 4));
    const float low = rows.low_scales[block];
    const float high = rows.high_scales[block];
    acc[0] += part[0] * (low * s.x);
    acc[1] += part[1] * (low * s.y);
    acc[2] += part[2] * (high * s.x);
    acc[3] += part[3] * (high * s.y);
  }
}

}  // namespace fathom::kernels
