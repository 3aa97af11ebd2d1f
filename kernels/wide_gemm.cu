// Launches of the wide product: maps for the copy engine, and the variant by shape.
#include "wide_gemm.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <utility>

#include "tensor_map.h"
#include "wide_gemm.cuh"

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
  const cuuint32_t box[2] = {kWideBlockBytes / (fp8 ? 1U : 2U), static_cast<cuuint32_t>(box_rows)};
  const cuuint32_t step[2] = {1, 1};
  const CUresult result =
      function(map, fp8 ? CU_TENSOR_MAP_DATA_TYPE_UINT8 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2,
               const_cast<void*>(data), size, stride_bytes, box, step,
               CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
               CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

using Kernel = void (*)(CUtensorMap, CUtensorMap, WideArgs);

struct Variant {
  WideShapeOf shape;
  int32_t threads = 0;
  Kernel kernel = nullptr;
};

template <size_t kIndex>
Variant variant() {
  constexpr WideShapeOf kShape = kWideShapes[kIndex];
  constexpr Format kFormat = kShape.fp8 ? Format::kFp8 : Format::kBF16;
  return {kShape, WideShape<kShape.fp8, kShape.columns, kShape.parts>::kThreads,
          wide_kernel<kFormat, kShape.columns, kShape.parts>};
}

template <size_t... kIndices>
std::array<Variant, sizeof...(kIndices)> all_variants(std::index_sequence<kIndices...>) {
  return {variant<kIndices>()...};
}

const auto& variants() {
  static const auto made = all_variants(std::make_index_sequence<std::size(kWideShapes)>());
  return made;
}

const Variant* variant_of(Format format, const WidePlan& plan) {
  for (const Variant& v : variants()) {
    if (v.shape.fp8 == (format == Format::kFp8) && v.shape.columns == plan.columns &&
        v.shape.parts == plan.parts) {
      return &v;
    }
  }
  return nullptr;
}

WideArgs make_args(Rows x, int64_t rows, const Matrix& w, Rows out, Format round, bool gated,
                   const WidePlan& plan) {
  const int64_t block = w.format == Format::kFp8 ? 128 : 64;
  WideArgs a;
  a.tokens = static_cast<int32_t>(rows);
  a.out = static_cast<int32_t>(gated ? w.out / 2 : w.out);
  a.w_rows = static_cast<int32_t>(w.out);
  a.k_blocks = static_cast<int32_t>((w.in + block - 1) / block);
  a.split = plan.split;
  a.x_bytes = static_cast<int32_t>(std::min<int64_t>(rows, kWideTokens)) * kWideBlockBytes;
  a.stages = plan.stages;
  a.tile_step = gated ? plan.columns : plan.columns * plan.parts;
  a.part_step = gated ? a.out : plan.columns;
  a.w_scales = w.scales;
  a.w_scale_rows = w.scale_rows;
  a.w_scale_stride = w.scale_stride;
  a.x_scales = x.scales;
  a.x_scale_stride = x.scale_stride;
  a.y = out;
  a.round = round;
  a.gated = gated;
  return a;
}

}  // namespace

cudaError_t load_wide_gemm() {
  for (const Variant& v : variants()) {
    cudaError_t error = cudaFuncSetAttribute(
        v.kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
    if (error != cudaSuccess) return error;
    error =
        cudaFuncSetAttribute(v.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kWideSharedMax);
    if (error != cudaSuccess) return error;
  }
  return tensor_map_encoder() != nullptr ? cudaSuccess : cudaErrorNotSupported;
}

cudaError_t wide_gemm(cudaStream_t stream, Rows x, int64_t rows, Matrix w, Rows out, Format round,
                      bool gated, const WidePlan& plan) {
  const Variant* v = variant_of(w.format, plan);
  if (v == nullptr || plan.split > kWideSplitMax || (gated && plan.parts != 2)) {
    return cudaErrorInvalidValue;
  }
  CUtensorMap w_map;
  CUtensorMap x_map;
  cudaError_t error = encode(&w_map, w.data, w.format, w.out, w.in, w.stride, plan.columns);
  if (error != cudaSuccess) return error;
  // Rows past the end would take the copy engine longer than rows that are there. What lies in
  // their place goes into sums that nobody stores.
  error = encode(&x_map, x.data, x.format, rows, w.in, x.stride,
                 static_cast<int32_t>(std::min<int64_t>(rows, kWideTokens)));
  if (error != cudaSuccess) return error;
  const WideArgs a = make_args(x, rows, w, out, round, gated, plan);
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeClusterDimension;
  attributes[0].val.clusterDim.x = static_cast<unsigned>(plan.split);
  attributes[0].val.clusterDim.y = 1;
  attributes[0].val.clusterDim.z = 1;
  attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[1].val.programmaticStreamSerializationAllowed = 1;
  const int64_t tiles = (a.out + a.tile_step - 1) / a.tile_step;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(tiles * plan.split),
                        static_cast<unsigned>((rows + kWideTokens - 1) / kWideTokens));
  config.blockDim = dim3(static_cast<unsigned>(v->threads));
  config.dynamicSmemBytes = static_cast<size_t>(wide_shared_bytes(plan, plan.stages));
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = plan.overlap ? 2 : 1;
  return cudaLaunchKernelEx(&config, v->kernel, w_map, x_map, a);
}

}  // namespace fathom::kernels
