// Launches of products of many rows.
#include "many_gemm.h"

#include <algorithm>

#include "early_launch.cuh"
#include "many_gemm.cuh"
#include "tensor_map.h"

namespace fathom::kernels {
namespace {

// Boxes of `box_columns` by 128 rows of a row-major matrix; what lies outside reads as zero.
cudaError_t encode(CUtensorMap* map, const void* data, bool codes, int64_t rows, int64_t columns,
                   int64_t stride, uint32_t box_columns) {
  const auto function = tensor_map_encoder();
  if (function == nullptr) return cudaErrorNotSupported;
  const cuuint64_t size[2] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)};
  const cuuint64_t stride_bytes[1] = {static_cast<cuuint64_t>(stride * (codes ? 1 : 4))};
  const cuuint32_t box[2] = {box_columns, kManyBox};
  const cuuint32_t step[2] = {1, 1};
  const CUresult result = function(
      map, codes ? CU_TENSOR_MAP_DATA_TYPE_UINT8 : CU_TENSOR_MAP_DATA_TYPE_FLOAT32, 2,
      const_cast<void*>(data), size, stride_bytes, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE,
      codes ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_NONE,
      CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

cudaError_t make_maps(const ManyCall& c, ManyMaps* maps) {
  cudaError_t error = encode(&maps->w, c.w.data, true, c.w.out, c.w.in, c.w.stride, kManyBytes);
  if (error == cudaSuccess)
    error = encode(&maps->x, c.x.data, true, c.rows, c.w.in, c.x.stride, kManyBytes);
  if (error == cudaSuccess) {
    error = encode(&maps->x_scales, c.x.scales, false, c.rows, c.w.in / 128, c.x.scale_stride,
                   kManyStages);
  }
  return error;
}

ManyArgs make_args(const ManyCall& c) {
  constexpr int32_t kUnitRows = 2 * kManyTileRows;
  ManyArgs a;
  a.w_scales = c.w.scales;
  a.w_scale_stride = c.w.scale_stride;
  a.rows = static_cast<int32_t>(c.rows);
  a.columns = static_cast<int32_t>(c.gated ? c.w.out / 2 : c.w.out);
  a.k_blocks = static_cast<int32_t>(c.w.in / 128);
  a.row_units = (a.rows + kUnitRows - 1) / kUnitRows;
  a.box_step = c.gated ? kManyBox : 2 * kManyBox;
  a.second_box = c.gated ? a.columns : kManyBox;
  a.column_tiles = (a.columns + a.box_step - 1) / a.box_step;
  a.items = a.row_units * a.column_tiles;
  a.band = std::min(a.row_units, kManyBand / 2);
  a.w_blocks = static_cast<int32_t>(c.w.out / kManyBox);
  a.out = c.out;
  return a;
}

cudaError_t load(void (*kernel)(ManyMaps, ManyArgs)) {
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                              static_cast<int>(kManySharedBytes));
}

}  // namespace

cudaError_t load_many_gemm() {
  cudaError_t error = tensor_map_encoder() != nullptr ? cudaSuccess : cudaErrorNotSupported;
  if (error == cudaSuccess) error = load(many_kernel<true>);
  if (error == cudaSuccess) error = load(many_kernel<false>);
  return error;
}

cudaError_t many_gemm(cudaStream_t stream, const ManyCall& call, int32_t sms) {
  if (call.rows == 0) return cudaSuccess;
  if (!many_gemm_fits(call.w.out, call.w.in, call.gated)) return cudaErrorInvalidValue;
  ManyMaps maps;
  const cudaError_t error = make_maps(call, &maps);
  if (error != cudaSuccess) return error;
  const ManyArgs a = make_args(call);
  const auto blocks = static_cast<unsigned>(std::min(sms / 2, a.items) * 2);
  return launch_early_with_shared(stream, call.gated ? many_kernel<true> : many_kernel<false>,
                                  dim3(blocks), dim3(kManyThreads), kManySharedBytes, maps, a);
}

}  // namespace fathom::kernels
