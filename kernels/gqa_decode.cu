// Launches of grouped-query decode attention: the cache's tensor map and the kernel for its heads.
#include "gqa_decode.h"

#include <cuda_runtime.h>

#include "gqa_decode_kernel.cuh"
#include "tensor_map.h"

namespace fathom::kernels {
namespace {

constexpr float kLog2E = 1.4426950408889634F;

// Bytes between blocks of e4m3 codes and their scales.
cuuint64_t code_block_bytes(const GqaDecodeCall& call) {
  return static_cast<cuuint64_t>(kGqaBlockTokens) * 2 * call.kv_heads * (call.head_dims + 4);
}

// The codes as (column, token, head, half, block); a box is 32 tokens of one head's keys or values,
// whose 128 bytes a token are all that is wanted: 256 would bring the next head's too.
cudaError_t encode_codes(CUtensorMap* map, const GqaDecodeCall& call,
                         PFN_cuTensorMapEncodeTiled_v12000 encoder, cuuint64_t half) {
  const auto dims = static_cast<cuuint64_t>(call.head_dims);
  const cuuint64_t sizes[5] = {dims, kGqaBlockTokens, half / dims, 2,
                               static_cast<cuuint64_t>(call.cache_blocks)};
  const cuuint64_t strides[4] = {2 * half, dims, half, code_block_bytes(call)};
  const cuuint32_t box[5] = {static_cast<cuuint32_t>(dims), kGqaGranuleTokens, 1, 1, 1};
  constexpr cuuint32_t kSteps[5] = {1, 1, 1, 1, 1};
  const CUresult result = encoder(
      map, CU_TENSOR_MAP_DATA_TYPE_UINT8, 5, const_cast<void*>(call.cache), sizes, strides, box,
      kSteps, CU_TENSOR_MAP_INTERLEAVE_NONE,
      call.head_dims == 128 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_64B,
      CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

// [blocks, 64 tokens, (keys, values), heads, dims] as (column, token, tile of 64, half, block);
// a box is 32 tokens of one head's keys or values.
cudaError_t encode_cache(CUtensorMap* map, const GqaDecodeCall& call) {
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

// A kernel that may begin before the one before it has ended.
template <typename... Parameters, typename... Arguments>
cudaError_t launch(cudaStream_t stream, dim3 grid, int threads, size_t shared,
                   void (*kernel)(Parameters...), const Arguments&... arguments) {
  if (shared > 48 * 1024) {
    const cudaError_t error = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
    if (error != cudaSuccess) return error;
  }
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...);
}

template <int kDims, int kGroups, bool kFp8>
cudaError_t launch_kernel(cudaStream_t stream, const GqaDecodePlan& plan, const CUtensorMap& cache,
                          const GqaDecodeArgs& args) {
  return launch(stream, dim3(static_cast<unsigned>(plan.blocks)), kGqaThreads,
                sizeof(GqaShared<kDims, kGroups, kFp8>) + 1024,
                gqa_decode_kernel<kDims, kGroups, kFp8>, cache, args);
}

template <int kDims, int kGroups>
cudaError_t launch_decode(cudaStream_t stream, const GqaDecodePlan& plan, const CUtensorMap& cache,
                          const GqaDecodeArgs& args) {
  return args.scales == nullptr ? launch_kernel<kDims, kGroups, false>(stream, plan, cache, args)
                                : launch_kernel<kDims, kGroups, true>(stream, plan, cache, args);
}

}  // namespace

cudaError_t gqa_decode(cudaStream_t stream, const GqaDecodePlan& plan, const GqaDecodeCall& call) {
  GqaDecodeArgs args;
  args.rows = call.rows;
  args.heads = call.heads;
  args.kv_heads = call.kv_heads;
  args.group = call.heads / call.kv_heads;
  args.tiles = plan.tiles;
  args.pairs = plan.pairs;
  args.segments_max = plan.segments_max;
  args.slots_per_block = plan.slots_per_block();
  args.scale_log2 = call.softmax_scale * kLog2E;
  args.queries = static_cast<const __nv_bfloat16*>(call.queries);
  args.out = call.out;
  args.partial = call.partial;
  args.statistics = call.statistics;
  args.arrivals = call.arrivals;
  if (call.fp8_cache) {
    const int64_t codes = int64_t{kGqaBlockTokens} * 2 * call.kv_heads * call.head_dims;
    args.scales = reinterpret_cast<const float*>(static_cast<const uint8_t*>(call.cache) + codes);
    args.scale_stride = static_cast<int64_t>(code_block_bytes(call) / 4);
  }
  CUtensorMap cache;
  const cudaError_t error = encode_cache(&cache, call);
  if (error != cudaSuccess) return error;
  if (call.head_dims == 64) {
    return plan.pair_tile == 8 ? launch_decode<64, 1>(stream, plan, cache, args)
                               : launch_decode<64, 2>(stream, plan, cache, args);
  }
  return plan.pair_tile == 8 ? launch_decode<128, 1>(stream, plan, cache, args)
                             : launch_decode<128, 2>(stream, plan, cache, args);
}

}  // namespace fathom::kernels
