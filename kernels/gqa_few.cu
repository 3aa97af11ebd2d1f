// Launches of attention for few rows: several blocks for each row and key head.
#include "gqa_few.h"

#include <cuda_runtime.h>

#include "early_launch.cuh"
#include "gqa_few.cuh"
#include "gqa_maps.cuh"

namespace fathom::kernels {
namespace {

constexpr float kLog2E = 1.4426950408889634F;

GqaFewArgs make_args(const GqaDecodePlan& plan, const GqaFewCall& call) {
  const GqaDecodeCall& d = call.decode;
  GqaFewArgs a;
  a.decode.rows = d.rows;
  a.decode.heads = d.heads;
  a.decode.kv_heads = d.kv_heads;
  a.decode.group = d.heads / d.kv_heads;
  a.decode.tiles = 1;
  a.decode.pairs = plan.pairs;
  a.decode.segments_max = plan.segments_max;
  a.decode.slots_per_block = plan.slots_per_block();
  a.decode.scale_log2 = d.softmax_scale * kLog2E;
  a.decode.out = d.out;
  a.decode.partial = d.partial;
  a.decode.statistics = d.statistics;
  a.batch = call.batch;
  a.heads = call.heads;
  a.norm_epsilon = call.norm_epsilon;
  a.qkv = static_cast<const __nv_bfloat16*>(call.qkv.data);
  a.qkv_stride = call.qkv.stride;
  a.blocks = plan.blocks / (d.rows.count * d.kv_heads);
  a.exchange = call.exchange;
  return a;
}

template <int kDims>
cudaError_t launch(cudaStream_t stream, const GqaDecodePlan& plan, const CUtensorMap& cache,
                   const GqaFewArgs& args) {
  constexpr size_t kShared = sizeof(GqaFewShared<kDims>) + 1024;
  const auto kernel = gqa_few_kernel<kDims>;
  cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                           static_cast<int>(kShared));
  // All of an SM's shared memory: a product's block beside this one's.
  if (error == cudaSuccess)
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                 cudaSharedmemCarveoutMaxShared);
  if (error != cudaSuccess) return error;
  return launch_early_with_shared(stream, kernel, dim3(static_cast<unsigned>(plan.blocks)),
                                  dim3(kGqaThreads), kShared, cache, args);
}

}  // namespace

cudaError_t gqa_few(cudaStream_t stream, const GqaDecodePlan& plan, const GqaFewCall& call) {
  const GqaDecodeCall& d = call.decode;
  const int32_t heads = d.rows.count * d.kv_heads;
  const int32_t group = d.heads / d.kv_heads;
  const bool fits = plan.few && !d.fp8_cache && call.exchange != nullptr &&
                    heads <= kGqaFewHeadsMax && plan.blocks % heads == 0 && group <= kFewPairs &&
                    group <= plan.blocks / heads;
  if (!fits) return cudaErrorInvalidValue;
  CUtensorMap cache;
  const cudaError_t error = encode_cache(&cache, d);
  if (error != cudaSuccess) return error;
  const GqaFewArgs args = make_args(plan, call);
  return d.head_dims == 64 ? launch<64>(stream, plan, cache, args)
                           : launch<128>(stream, plan, cache, args);
}

}  // namespace fathom::kernels
