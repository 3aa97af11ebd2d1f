// Launches of the tall product: maps for the copy engine, and the variant by shape.
#include "tall_gemm.h"

#include <algorithm>

#include "tall_gemm.cuh"
#include "tensor_map.h"

namespace fathom::kernels {
namespace {

using Kernel = void (*)(CUtensorMap, CUtensorMap, TallArgs);
using HeadsKernel = void (*)(CUtensorMap, CUtensorMap, TallArgs, GqaPrepareCall);

// Boxes of `box_rows` rows and 128 bytes of a row-major e4m3 matrix; what lies outside reads as 0.
cudaError_t encode(CUtensorMap* map, const void* data, int64_t rows, int64_t columns,
                   int64_t stride, int32_t box_rows) {
  const auto function = tensor_map_encoder();
  if (function == nullptr) return cudaErrorNotSupported;
  const cuuint64_t size[2] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)};
  const cuuint64_t stride_bytes[1] = {static_cast<cuuint64_t>(stride)};
  const cuuint32_t box[2] = {kTallBytes, static_cast<cuuint32_t>(box_rows)};
  const cuuint32_t step[2] = {1, 1};
  const CUresult result =
      function(map, CU_TENSOR_MAP_DATA_TYPE_UINT8, 2, const_cast<void*>(data), size, stride_bytes,
               box, step, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
               CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

Kernel kernel_of(int32_t columns, bool gated) {
  switch (columns) {
    case 96: return gated ? nullptr : tall_kernel<96, false>;
    case 128: return gated ? tall_kernel<128, true> : tall_kernel<128, false>;
    case 256: return gated ? tall_kernel<256, true> : tall_kernel<256, false>;
    default: return nullptr;
  }
}

HeadsKernel heads_kernel_of(int32_t columns) {
  switch (columns) {
    case 128: return tall_heads_kernel<128>;
    case 256: return tall_heads_kernel<256>;
    default: return nullptr;
  }
}

int32_t parts(int64_t n, int64_t of) { return static_cast<int32_t>((n + of - 1) / of); }

void set_shape(const Rows& x, int64_t rows, const Matrix& w, const TallPlan& plan, bool gated,
               TallArgs& a) {
  const bool columns = plan.pairing == TallPairing::kColumns;
  const bool tokens = plan.pairing == TallPairing::kTokens;
  const int32_t part_rows = plan.columns / 2;
  a.tokens = static_cast<int32_t>(rows);
  a.token_step = plan.token_step;
  a.token_tiles = parts(rows, plan.token_step * (tokens ? 2 : 1));
  a.w_rows = static_cast<int32_t>(w.out);
  a.k_blocks = parts(w.in, 128);
  a.stages = plan.stages;
  a.pairing = plan.pairing;
  a.multicast = plan.multicast;
  a.tile_step = gated ? part_rows : 2 * part_rows;
  a.part_step = gated ? a.columns : part_rows;
  a.group_step = plan.columns == 96 ? 32 : a.part_step;
  a.column_tiles = parts(a.columns, a.tile_step * (columns ? 2 : 1));
  a.w_scales = w.scales;
  a.w_scale_rows = w.scale_rows;
  a.w_scale_stride = w.scale_stride;
  a.x_scales = x.scales;
  a.x_scale_stride = x.scale_stride;
}

cudaError_t launch(cudaStream_t stream, const Rows& x, int64_t rows, const Matrix& w,
                   const TallPlan& plan, int32_t sms, bool gated, TallArgs& a,
                   const GqaPrepareCall* heads = nullptr) {
  CUtensorMap w_map;
  CUtensorMap x_map;
  cudaError_t error = encode(&w_map, w.data, w.out, w.in, w.stride, plan.columns / 2);
  if (error != cudaSuccess) return error;
  const bool halves = plan.multicast && plan.pairing == TallPairing::kColumns;
  error = encode(&x_map, x.data, rows, w.in, x.stride, plan.token_step / (halves ? 2 : 1));
  if (error != cudaSuccess) return error;
  set_shape(x, rows, w, plan, gated, a);
  const int32_t cluster = plan.pairing == TallPairing::kAlone ? 1 : 2;
  const int32_t units = a.token_tiles * a.column_tiles;
  const bool once = plan.pairing == TallPairing::kSplit;  // a tile a cluster
  const int32_t clusters = once ? units : std::min(units, sms / cluster);
  a.token_advance = clusters % a.token_tiles;
  a.column_advance = clusters / a.token_tiles;
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeClusterDimension;
  attributes[0].val.clusterDim.x = static_cast<unsigned>(cluster);
  attributes[0].val.clusterDim.y = 1;
  attributes[0].val.clusterDim.z = 1;
  attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[1].val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(clusters * cluster));
  config.blockDim = dim3(kTallThreads);
  config.dynamicSmemBytes = static_cast<size_t>(tall_shared_bytes(plan, plan.stages));
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = 2;
  if (heads != nullptr) {
    return cudaLaunchKernelEx(&config, heads_kernel_of(plan.columns), w_map, x_map, a, *heads);
  }
  return cudaLaunchKernelEx(&config, kernel_of(plan.columns, gated), w_map, x_map, a);
}

bool fits(const TallPlan& plan, bool gated, int64_t in) {
  const bool columns = plan.pairing == TallPairing::kColumns;
  const bool split = plan.pairing == TallPairing::kSplit;
  if (kernel_of(plan.columns, gated) == nullptr) return false;
  if (split && (gated || plan.columns != 128 || in <= 128)) return false;
  if (gated && plan.columns == 128 && !columns) return false;
  if (plan.multicast && (split || plan.pairing == TallPairing::kAlone)) return false;
  return plan.token_step > 0 && plan.token_step <= kTallTokens &&
         plan.token_step % (columns ? 16 : 8) == 0 && plan.stages > 0 &&
         plan.stages <= kTallStagesMax && tall_shared_bytes(plan, plan.stages) <= kTallSharedMax;
}

}  // namespace

cudaError_t load_tall_gemm() {
  for (const int32_t columns : {96, 128, 256}) {
    for (const bool gated : {false, true}) {
      const Kernel kernel = kernel_of(columns, gated);
      if (kernel == nullptr) continue;
      const cudaError_t error =
          cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kTallSharedMax);
      if (error != cudaSuccess) return error;
    }
    const HeadsKernel heads = heads_kernel_of(columns);
    if (heads == nullptr) continue;
    const cudaError_t error =
        cudaFuncSetAttribute(heads, cudaFuncAttributeMaxDynamicSharedMemorySize, kTallSharedMax);
    if (error != cudaSuccess) return error;
  }
  return tensor_map_encoder() != nullptr ? cudaSuccess : cudaErrorNotSupported;
}

cudaError_t tall_gemm(cudaStream_t stream, Rows x, int64_t rows, Matrix w, Rows out,
                      const TallPlan& plan, int32_t sms) {
  if (!fits(plan, false, w.in)) return cudaErrorInvalidValue;
  TallArgs a;
  a.columns = static_cast<int32_t>(w.out);
  a.y.data = out.data;
  a.y.stride = out.stride;
  return launch(stream, x, rows, w, plan, sms, false, a);
}

cudaError_t tall_gated_gemm(cudaStream_t stream, Rows x, int64_t rows, Matrix w, Epilogue out,
                            const TallPlan& plan, int32_t sms) {
  if (!fits(plan, true, w.in) || w.out % 256 != 0) return cudaErrorInvalidValue;
  TallArgs a;
  a.columns = static_cast<int32_t>(w.out / 2);
  a.y = out;
  return launch(stream, x, rows, w, plan, sms, true, a);
}

cudaError_t tall_heads_gemm(cudaStream_t stream, Rows x, int64_t rows, Matrix w,
                            const GqaPrepareCall& heads, const TallPlan& plan, int32_t sms) {
  const bool split = plan.pairing == TallPairing::kSplit;
  const bool known = heads_kernel_of(plan.columns) != nullptr && plan.heads && !split;
  const GqaShape& shape = heads.shape;
  const int32_t tile_heads = plan.columns / kTallHeadDims;
  const bool even = shape.kv_heads % tile_heads == 0 && shape.heads % tile_heads == 0;
  if (!known || !fits(plan, false, w.in) || !even || shape.head_dims != kTallHeadDims ||
      shape.block_tokens != kGqaBlockTokens || rows > kTallHeadTokens ||
      heads.batch.tokens != rows ||
      w.out != int64_t{shape.heads + 2 * shape.kv_heads} * kTallHeadDims) {
    return cudaErrorInvalidValue;
  }
  TallArgs a;
  a.columns = static_cast<int32_t>(w.out);
  return launch(stream, x, rows, w, plan, sms, false, a, &heads);
}

}  // namespace fathom::kernels
