// Launches of the skinny product: maps for the copy engine, and the variant by token tile.
#include "skinny_gemm.h"

#include <algorithm>

#include "skinny_gemm.cuh"
#include "tensor_map.h"

namespace fathom::kernels {
namespace {

// A box of `box_rows` rows and 128 bytes of a row-major matrix; what lies outside reads as zero.
cudaError_t encode(CUtensorMap* map, const void* data, Format format, int64_t rows, int64_t columns,
                   int64_t stride, int32_t box_rows) {
  const auto function = tensor_map_encoder();
  if (function == nullptr) return cudaErrorNotSupported;
  const bool fp8 = format == Format::kFp8;
  const cuuint64_t size[2] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)};
  const cuuint64_t stride_bytes[1] = {static_cast<cuuint64_t>(stride * (fp8 ? 1 : 2))};
  const cuuint32_t box[2] = {kSkinnyBlockBytes / (fp8 ? 1U : 2U),
                             static_cast<cuuint32_t>(box_rows)};
  const cuuint32_t step[2] = {1, 1};
  const CUresult result =
      function(map, fp8 ? CU_TENSOR_MAP_DATA_TYPE_UINT8 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2,
               const_cast<void*>(data), size, stride_bytes, box, step,
               CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
               CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

using Kernel = void (*)(CUtensorMap, CUtensorMap, SkinnyArgs);

template <Format kFormat, int kRows>
Kernel kernel_of(int32_t token_tile) {
  switch (token_tile) {
    case 8: return skinny_kernel<kFormat, 8, kRows>;
    case 16: return skinny_kernel<kFormat, 16, kRows>;
    case 32: return skinny_kernel<kFormat, 32, kRows>;
    case 64: return skinny_kernel<kFormat, 64, kRows>;
    default: break;
  }
  if constexpr (kFormat == Format::kFp8 && kRows == 64) {
    if (token_tile == kSkinnyTokensWide) return skinny_kernel<kFormat, kSkinnyTokensWide, kRows>;
  }
  return nullptr;
}

Kernel kernel_of(Format format, int32_t token_tile, int32_t tile_rows) {
  if (tile_rows == 64) {
    return format == Format::kFp8 ? kernel_of<Format::kFp8, 64>(token_tile)
                                  : kernel_of<Format::kBF16, 64>(token_tile);
  }
  return format == Format::kFp8 ? kernel_of<Format::kFp8, 128>(token_tile)
                                : kernel_of<Format::kBF16, 128>(token_tile);
}

unsigned threads_of(const SkinnyPlan& plan) {
  const bool narrow = plan.tile_rows == 64 && plan.token_tile < 64;
  return narrow ? SkinnyShape<8, 64>::kThreads : SkinnyShape<8, 128>::kThreads;
}

SkinnyArgs make_args(Rows x, int64_t rows, const Matrix& w, Rows out, Format round,
                     const SkinnyPlan& plan, const Turn& turn) {
  const int64_t block = w.format == Format::kFp8 ? 128 : 64;
  SkinnyArgs a;
  a.tokens = static_cast<int32_t>(rows);
  a.out = static_cast<int32_t>(w.out);
  a.k_blocks = static_cast<int32_t>((w.in + block - 1) / block);
  a.split = plan.split;
  a.stages = plan.stages;
  a.w_scales = w.scales;
  a.w_scale_rows = w.scale_rows;
  a.w_scale_stride = w.scale_stride;
  a.x_scales = x.scales;
  a.x_scale_stride = x.scale_stride;
  a.y = out;
  a.round = round;
  a.overlap_next = plan.overlap_next;
  a.x_bytes = static_cast<int32_t>(std::min<int64_t>(rows, plan.token_tile)) * kSkinnyBlockBytes;
  a.turn = turn;
  return a;
}

}  // namespace

cudaError_t load_skinny_gemm() {
  const auto load = [](Kernel kernel) {
    // All of an SM's shared memory: this kernel's block and the next one's beside it.
    const cudaError_t error = cudaFuncSetAttribute(
        kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
    if (error != cudaSuccess) return error;
    return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                kSkinnySharedMax);
  };
  for (const Format format : {Format::kFp8, Format::kBF16}) {
    for (const int32_t tokens : {8, 16, 32, 64, kSkinnyTokensWide}) {
      for (const int32_t rows : {64, 128}) {
        const Kernel kernel = kernel_of(format, tokens, rows);
        const cudaError_t error = kernel == nullptr ? cudaSuccess : load(kernel);
        if (error != cudaSuccess) return error;
      }
    }
  }
  return tensor_map_encoder() != nullptr ? cudaSuccess : cudaErrorNotSupported;
}

cudaError_t skinny_gemm(cudaStream_t stream, Rows x, int64_t rows, Matrix w, Rows out, Format round,
                        const SkinnyPlan& plan, const Turn& turn) {
  const Kernel kernel = kernel_of(w.format, plan.token_tile, plan.tile_rows);
  if (kernel == nullptr || plan.split > plan.tile_rows / 16 ||
      rows > int64_t{plan.token_tile} * plan.token_blocks) {
    return cudaErrorInvalidValue;
  }
  const int64_t token_blocks = (rows + plan.token_tile - 1) / plan.token_tile;
  CUtensorMap w_map;
  CUtensorMap x_map;
  cudaError_t error = encode(&w_map, w.data, w.format, w.out, w.in, w.stride, plan.tile_rows);
  if (error != cudaSuccess) return error;
  // Rows past the end would take the copy engine longer than rows that are there. What lies in
  // their place goes into sums that nobody stores.
  const auto box = static_cast<int32_t>(std::min<int64_t>(rows, plan.token_tile));
  error = encode(&x_map, x.data, x.format, rows, w.in, x.stride, box);
  if (error != cudaSuccess) return error;
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeClusterDimension;
  attributes[0].val.clusterDim.x = static_cast<unsigned>(plan.split);
  attributes[0].val.clusterDim.y = 1;
  attributes[0].val.clusterDim.z = 1;
  attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[1].val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim =
      dim3(static_cast<unsigned>(skinny_blocks(w.out, plan)), static_cast<unsigned>(token_blocks));
  config.blockDim = dim3(threads_of(plan));
  config.dynamicSmemBytes = static_cast<size_t>(skinny_shared_bytes(plan, plan.stages));
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = plan.overlap ? 2 : 1;
  return cudaLaunchKernelEx(&config, kernel, w_map, x_map,
                            make_args(x, rows, w, out, round, plan, turn));
}

}  // namespace fathom::kernels
