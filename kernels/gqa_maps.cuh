// The copy engine's maps of a paged cache of keys and values.
#pragma once

#include "gqa_decode.h"
#include "gqa_fp8_cache.cuh"
#include "tensor_map.h"

namespace fathom::kernels {

// The codes as (column, token, head, half, block); a box is `tokens` of one head's keys or
// values, one run of memory.
inline cudaError_t encode_codes(CUtensorMap* map, const GqaDecodeCall& call,
                                PFN_cuTensorMapEncodeTiled_v12000 encoder, uint32_t tokens) {
  const auto dims = static_cast<cuuint64_t>(call.head_dims);
  const auto heads = static_cast<cuuint64_t>(call.kv_heads);
  const auto head_bytes =
      static_cast<cuuint64_t>(fp8_head_bytes(kGqaBlockTokens, call.head_dims));
  const cuuint64_t sizes[5] = {dims, kGqaBlockTokens, heads, 2,
                               static_cast<cuuint64_t>(call.cache_blocks)};
  const cuuint64_t strides[4] = {dims, head_bytes, kGqaBlockTokens * dims, heads * head_bytes};
  const cuuint32_t box[5] = {static_cast<cuuint32_t>(dims), tokens, 1, 1, 1};
  constexpr cuuint32_t kSteps[5] = {1, 1, 1, 1, 1};
  const CUresult result =
      encoder(map, CU_TENSOR_MAP_DATA_TYPE_UINT8, 5, const_cast<void*>(call.cache), sizes, strides,
              box, kSteps, CU_TENSOR_MAP_INTERLEAVE_NONE,
              call.head_dims == 128 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B,
              CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

// [blocks, 64 tokens, (keys, values), heads, dims] as (column, token, tile of 64, half, block);
// a box is a granule of one head's keys or values, or fewer tokens of one tile.
inline cudaError_t encode_cache(CUtensorMap* map, const GqaDecodeCall& call,
                                uint32_t tokens = kGqaGranuleTokens) {
  const auto encoder = tensor_map_encoder();
  if (encoder == nullptr) return cudaErrorNotSupported;
  const auto half = static_cast<cuuint64_t>(call.kv_heads) * call.head_dims;
  if (call.fp8_cache) return encode_codes(map, call, encoder, tokens);
  const cuuint64_t sizes[5] = {64, kGqaBlockTokens, half / 64, 2,
                               static_cast<cuuint64_t>(call.cache_blocks)};
  const cuuint64_t strides[4] = {2 * half * 2, 128, half * 2, kGqaBlockTokens * 2 * half * 2};
  const auto tiles = static_cast<cuuint32_t>(call.head_dims / 64);
  const cuuint32_t box[5] = {64, tokens, tokens == kGqaGranuleTokens ? tiles : 1, 1, 1};
  constexpr cuuint32_t kSteps[5] = {1, 1, 1, 1, 1};
  const CUresult result =
      encoder(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 5, const_cast<void*>(call.cache), sizes,
              strides, box, kSteps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
              CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

}  // namespace fathom::kernels
