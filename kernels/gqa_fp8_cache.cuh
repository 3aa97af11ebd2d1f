// Where the codes and scales of an e4m3 cache of keys and values lie in a block
// (include/fathom/fp8_cache.h): a run of memory for each head.
#pragma once

#include <cuda_bf16.h>

#include "gqa.h"

namespace fathom::kernels {

using Fp8Scale = __nv_bfloat16;
inline constexpr int32_t kFp8ScaleBytes = sizeof(Fp8Scale);

__host__ __device__ inline int64_t fp8_head_bytes(int32_t block_tokens, int32_t head_dims) {
  return int64_t{2} * block_tokens * (head_dims + kFp8ScaleBytes);
}

__host__ __device__ inline int64_t fp8_block_bytes(const GqaShape& s) {
  return s.kv_heads * fp8_head_bytes(s.block_tokens, s.head_dims);
}

// The codes of a token's key (half 0) or value (1), from the block's first byte.
__device__ inline int64_t fp8_codes_at(const GqaShape& s, int64_t token, int head, int half) {
  return head * fp8_head_bytes(s.block_tokens, s.head_dims) +
         (half * s.block_tokens + token) * s.head_dims;
}

__device__ inline int64_t fp8_scale_at(const GqaShape& s, int64_t token, int head, int half) {
  return head * fp8_head_bytes(s.block_tokens, s.head_dims) +
         int64_t{2} * s.block_tokens * s.head_dims +
         (half * s.block_tokens + token) * kFp8ScaleBytes;
}

// A scale rounded up to what is stored: numbers are divided by that.
__device__ inline float fp8_scale(float scale) {
  return __uint_as_float((__float_as_uint(scale) + 0xFFFFU) & 0xFFFF0000U);
}

}  // namespace fathom::kernels
