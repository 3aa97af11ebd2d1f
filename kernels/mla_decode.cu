// Launches of MLA decode: tensor maps, the kernel that the config names, the merge.
#include "mla_decode.h"

#include <cuda_runtime.h>

#include <algorithm>

#include "mla_decode_fp8.cuh"
#include "mla_decode_narrow.cuh"
#include "mla_decode_wide.cuh"
#include "mla_schedule.cuh"
#include "tensor_map.h"

namespace fathom::kernels {
namespace {

constexpr float kLog2E = 1.4426950408889634F;

// A map over bf16 whose boxes are written under the 128-byte swizzle, 64 columns wide.
cudaError_t encode(CUtensorMap* map, const void* data, uint32_t rank, const cuuint64_t* sizes,
                   const cuuint64_t* strides, const cuuint32_t* box) {
  const auto encoder = tensor_map_encoder();
  if (encoder == nullptr) return cudaErrorNotSupported;
  constexpr cuuint32_t kSteps[4] = {1, 1, 1, 1};
  const CUresult result =
      encoder(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, rank, const_cast<void*>(data), sizes, strides,
              box, kSteps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
              CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

// [blocks, 64 tokens, 576] as (column, token, tile, block).
// A copy takes a whole block, or one of its tiles.
cudaError_t encode_cache(CUtensorMap* map, const MlaDecodeConfig& config,
                         const MlaDecodeCall& call) {
  const cuuint64_t sizes[4] = {64, kMlaBlockTokens, 9, static_cast<cuuint64_t>(call.blocks)};
  const cuuint64_t strides[3] = {kMlaEntry * 2, 128, kMlaBlockTokens * kMlaEntry * 2};
  const cuuint32_t tiles = config.kind == MlaDecodeKind::kWide ? 1 : 9;
  const cuuint32_t box[4] = {64, kMlaBlockTokens, tiles, 1};
  return encode(map, call.cache, 4, sizes, strides, box);
}

// [tokens * heads, 576] as (column, row, tile); rows past the end read as zero. A copy takes a
// row's queries at once, or one of their tiles.
cudaError_t encode_queries(CUtensorMap* map, const MlaDecodeDesc& desc,
                           const MlaDecodeConfig& config, const MlaDecodeCall& call) {
  const cuuint64_t sizes[3] = {64, static_cast<cuuint64_t>(call.tokens * desc.heads), 9};
  const cuuint64_t strides[2] = {kMlaEntry * 2, 128};
  const cuuint32_t tiles = config.kind == MlaDecodeKind::kWide ? 1 : 9;
  const cuuint32_t box[3] = {64, static_cast<cuuint32_t>(config.tile_pairs), tiles};
  return encode(map, call.queries, 3, sizes, strides, box);
}

struct Launch {
  int32_t blocks = 1;
  int threads = 1;
  size_t shared = 0;
  int cluster = 1;
  bool overlap = false;
};

template <typename... Parameters, typename... Arguments>
cudaError_t launch(cudaStream_t stream, const Launch& how, void (*kernel)(Parameters...),
                   Arguments... arguments) {
  if (how.shared > 48 * 1024) {
    const cudaError_t error = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(how.shared));
    if (error != cudaSuccess) return error;
  }
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeClusterDimension;
  attributes[0].val.clusterDim = {static_cast<unsigned>(how.cluster), 1, 1};
  attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[1].val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(how.blocks));
  config.blockDim = dim3(static_cast<unsigned>(how.threads));
  config.dynamicSmemBytes = how.shared;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = how.overlap ? 2 : 1;
  return cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...);
}

template <int kGroups>
cudaError_t launch_narrow(cudaStream_t stream, const MlaDecodeConfig& config, bool overlap,
                          const CUtensorMap& cache, const CUtensorMap& queries,
                          const MlaDecodeArgs& args) {
  const Launch how{config.blocks(), kNarrowThreads<kGroups>, sizeof(NarrowShared<kGroups>) + 1024,
                   1, overlap};
  return launch(stream, how, mla_narrow_kernel<kGroups>, cache, queries, args);
}

cudaError_t launch_fp8(cudaStream_t stream, const MlaDecodeConfig& config,
                       const MlaDecodeCall& call, const CUtensorMap& queries,
                       const MlaDecodeArgs& args) {
  const Launch how{config.blocks(), kFp8Threads, sizeof(Fp8Shared) + 1024, 1, call.overlap};
  return launch(stream, how, mla_fp8_kernel, static_cast<const uint8_t*>(call.cache), queries,
                args);
}

template <int kCluster>
cudaError_t launch_wide(cudaStream_t stream, const MlaDecodeConfig& config, bool overlap,
                        const CUtensorMap& cache, const CUtensorMap& queries,
                        const MlaDecodeArgs& args) {
  const Launch how{config.blocks(), kWideThreads, sizeof(WideShared), kCluster, overlap};
  return launch(stream, how, mla_wide_kernel<kCluster>, cache, queries, args);
}

}  // namespace

cudaError_t mla_schedule(cudaStream_t stream, const MlaDecodeDesc& desc,
                         const MlaDecodeConfig& config, const MlaDecodeRows& rows,
                         const MlaSchedule& schedule) {
  const size_t shared = static_cast<size_t>(4 * desc.rows + 1) * sizeof(int32_t);
  return launch(
      stream, Launch{1, kScheduleThreads, shared, 1, false}, mla_schedule_kernel, rows, desc.rows,
      MlaCutting{config.parts, config.overhead, config.slots, config.fixed_cuts}, schedule);
}

cudaError_t mla_decode(cudaStream_t stream, const MlaDecodeDesc& desc,
                       const MlaDecodeConfig& config, const MlaSchedule& schedule,
                       const MlaDecodeCall& call) {
  MlaDecodeArgs args;
  args.rows = call.rows;
  args.schedule = schedule;
  args.heads = desc.heads;
  args.tiles = config.tiles;
  args.scale_log2 = call.softmax_scale * kLog2E;
  args.out = static_cast<__nv_bfloat16*>(call.out);
  args.partial = call.partial;
  args.partial_weights = call.partial_weights;
  CUtensorMap cache;
  CUtensorMap queries;
  cudaError_t error = desc.fp8_cache ? cudaSuccess : encode_cache(&cache, config, call);
  if (error == cudaSuccess) error = encode_queries(&queries, desc, config, call);
  if (error != cudaSuccess) return error;
  if (desc.fp8_cache) {
    error = launch_fp8(stream, config, call, queries, args);
  } else if (config.kind == MlaDecodeKind::kWide) {
    error = config.cluster == 2
                ? launch_wide<2>(stream, config, call.overlap, cache, queries, args)
                : launch_wide<1>(stream, config, call.overlap, cache, queries, args);
  } else if (config.tile_pairs == 16) {
    error = launch_narrow<1>(stream, config, call.overlap, cache, queries, args);
  } else {
    error = launch_narrow<2>(stream, config, call.overlap, cache, queries, args);
  }
  if (error != cudaSuccess || !call.merge) return error;
  const int32_t pairs = desc.heads * desc.query_tokens_max;
  const int32_t together = config.few_rows ? 1 : 4;
  const int threads = together * kMergeThreads;
  const int32_t turns = desc.rows * ((pairs + together - 1) / together);
  const int32_t resident = desc.multiprocessors * (kMergeResident / threads);
  const Launch how{std::min(turns, resident), threads, 0, 1, call.overlap};
  return config.few_rows
             ? launch(stream, how, mla_merge_kernel<1>, args, desc.rows, pairs, config.tile_pairs)
             : launch(stream, how, mla_merge_kernel<4>, args, desc.rows, pairs, config.tile_pairs);
}

cudaError_t load_mla_decode() {
  const void* kernels[] = {
      reinterpret_cast<const void*>(mla_schedule_kernel),
      reinterpret_cast<const void*>(mla_narrow_kernel<1>),
      reinterpret_cast<const void*>(mla_narrow_kernel<2>),
      reinterpret_cast<const void*>(mla_fp8_kernel),
      reinterpret_cast<const void*>(mla_wide_kernel<1>),
      reinterpret_cast<const void*>(mla_wide_kernel<2>),
      reinterpret_cast<const void*>(mla_merge_kernel<1>),
      reinterpret_cast<const void*>(mla_merge_kernel<4>),
  };
  for (const void* kernel : kernels) {
    cudaFuncAttributes attributes;
    const cudaError_t error = cudaFuncGetAttributes(&attributes, kernel);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace fathom::kernels
