// The copy engine's maps of a paged cache of keys and values.
#pragma once

#include "gqa_decode.h"
#include "tensor_map.h"

namespace fathom::kernels {

// Bytes between blocks of e4m3 codes and their scales.
inline cuuint64_t code_block_bytes(const GqaDecodeCall& call) {
  return static_cast<cuuint64_t>(kGqaBlockTokens) * 2 * call.kv_heads * (call.head_dims + 4);
}

// The codes as (column, token, head, half, block); a box is 32 tokens of one head's keys or values,
// whose 128 bytes a token are all that is wanted: with 256 the memory would send the next head's
// too.
inline cudaError_t encode_codes(CUtensorMap* map, const GqaDecodeCall& call,
                                PFN_cuTensorMapEncodeTiled_v12000 encoder, cuuint64_t half) {
  const auto dims = static_cast<cuuint64_t>(call.head_dims);
  const cuuint64_t sizes[5] = {dims, kGqaBlockTokens, half / dims, 2,
                               static_cast<cuuint64_t>(call.cache_blocks)};
  const cuuint64_t strides[4] = {2 * half, dims, half, code_block_bytes(call)};
  const cuuint32_t box[5] = {static_cast<cuuint32_t>(dims), kGqaGranuleTokens, 1, 1, 1};
  constexpr cuuint32_t kSteps[5] = {1, 1, 1, 1, 1};
  const CUresult result =
      encoder(map, CU_TENSOR_MAP_DATA_TYPE_UINT8, 5, const_cast<void*>(call.cache), sizes, strides,
              box, kSteps, CU_TENSOR_MAP_INTERLEAVE_NONE,
              call.head_dims == 128 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B,
              CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

// [blocks, 64 tokens, (keys, values), heads, dims] as (column, token, tile of 64, half, block);
// a box is 32 tokens of one head's keys or values.
inline cudaError_t encode_cache(CUtensorMap* map, const GqaDecodeCall& call) {
  const auto encoder = tensor_map_encoder();
  if (encoder == nullptr) return cudaErrorNotSupported;
  const auto half = static_cast<cuuint64_t>(call.kv_heads) * call.head_dims;
  if (call.fp8_cache) return encode_codes(map, call, encoder, half);
  const cuuint64_t sizes[5] = {64, kGqaBlockTokens, half / 64, 2,
                               static_cast<cuuint64_t>(call.cache_blocks)};
  const cuuint64_t strides[4] = {2 * half * 2, 128, half * 2, kGqaBlockTokens * 2 * half * 2};
  const cuuint32_t box[5] = {64, kGqaGranuleTokens, static_cast<cuuint32_t>(call.head_dims / 64), 1,
                             1};
  constexpr cuuint32_t kSteps[5] = {1, 1, 1, 1, 1};
  const CUresult result =
      encoder(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 5, const_cast<void*>(call.cache), sizes,
              strides, box, kSteps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
              CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

}  // namespace fathom::kernels
