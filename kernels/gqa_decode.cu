// Launches of grouped-query decode attention: the cache's tensor map and the kernel for its heads.
#include "gqa_decode.h"

#include <cuda_runtime.h>

#include "gqa_decode_kernel.cuh"
#include "gqa_maps.cuh"

namespace fathom::kernels {
namespace {

constexpr float kLog2E = 1.4426950408889634F;

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
                          const CUtensorMap& eights, const GqaDecodeArgs& args) {
  return launch(stream, dim3(static_cast<unsigned>(plan.blocks)), kGqaThreads,
                sizeof(GqaShared<kDims, kGroups, kFp8>) + 1024,
                gqa_decode_kernel<kDims, kGroups, kFp8>, cache, eights, args);
}

template <int kDims, int kGroups>
cudaError_t launch_decode(cudaStream_t stream, const GqaDecodePlan& plan, const CUtensorMap& cache,
                          const CUtensorMap& eights, const GqaDecodeArgs& args) {
  return args.scales == nullptr
             ? launch_kernel<kDims, kGroups, false>(stream, plan, cache, eights, args)
             : launch_kernel<kDims, kGroups, true>(stream, plan, cache, eights, args);
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
    const int64_t codes = int64_t{kGqaBlockTokens} * 2 * call.head_dims;
    args.scales =
        reinterpret_cast<const Fp8Scale*>(static_cast<const uint8_t*>(call.cache) + codes);
    args.scale_head_stride = fp8_head_bytes(kGqaBlockTokens, call.head_dims) / kFp8ScaleBytes;
    args.scale_stride = call.kv_heads * args.scale_head_stride;
  }
  CUtensorMap cache;
  CUtensorMap eights;
  cudaError_t error =
      encode_cache(&cache, call, call.fp8_cache ? kGqaBlockTokens : kGqaGranuleTokens);
  if (error == cudaSuccess) error = encode_cache(&eights, call, 8);
  if (error != cudaSuccess) return error;
  if (call.head_dims == 64) {
    return plan.pair_tile == 8 ? launch_decode<64, 1>(stream, plan, cache, eights, args)
                               : launch_decode<64, 2>(stream, plan, cache, eights, args);
  }
  return plan.pair_tile == 8 ? launch_decode<128, 1>(stream, plan, cache, eights, args)
                             : launch_decode<128, 2>(stream, plan, cache, eights, args);
}

}  // namespace fathom::kernels
