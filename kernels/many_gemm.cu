// Launches of products of many rows.
#include "many_gemm.h"

#include <algorithm>

#include "early_launch.cuh"
#include "many_exact.cuh"
#include "many_gemm.cuh"
#include "tensor_map.h"

namespace fathom::kernels {
namespace {

// Boxes of `box_columns` by 128 rows of a row-major matrix; what lies outside reads as zero.
cudaError_t encode(CUtensorMap* map, const void* data, Format format, int64_t rows, int64_t columns,
                   int64_t stride, uint32_t box_columns) {
  const auto function = tensor_map_encoder();
  if (function == nullptr) return cudaErrorNotSupported;
  const cuuint64_t size[2] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)};
  const bool scales = format == Format::kF32;
  const int64_t size_of_one = format == Format::kFp8 ? 1 : scales ? 4 : 2;
  const cuuint64_t stride_bytes[1] = {static_cast<cuuint64_t>(stride * size_of_one)};
  const cuuint32_t box[2] = {box_columns, kManyBox};
  const cuuint32_t step[2] = {1, 1};
  const CUtensorMapDataType type = format == Format::kFp8    ? CU_TENSOR_MAP_DATA_TYPE_UINT8
                                   : format == Format::kBF16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                                             : CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
  const CUresult result =
      function(map, type, 2, const_cast<void*>(data), size, stride_bytes, box, step,
               CU_TENSOR_MAP_INTERLEAVE_NONE,
               scales ? CU_TENSOR_MAP_SWIZZLE_NONE : CU_TENSOR_MAP_SWIZZLE_128B,
               CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

cudaError_t make_maps(const ManyCall& c, ManyMaps* maps) {
  const bool codes = c.w.format == Format::kFp8;
  const uint32_t columns = codes ? kManyBytes : kManyBytes / 2;
  cudaError_t error = encode(&maps->w, c.w.data, c.w.format, c.w.out, c.w.in, c.w.stride, columns);
  if (error == cudaSuccess)
    error = encode(&maps->x, c.x.data, c.w.format, c.rows, c.w.in, c.x.stride, columns);
  if (error == cudaSuccess && codes) {
    error = encode(&maps->x_scales, c.x.scales, Format::kF32, c.rows, c.w.in / 128,
                   c.x.scale_stride, kManyStages);
  }
  return error;
}

ManyArgs make_args(const ManyCall& c, int32_t twos) {
  constexpr int32_t kUnitRows = 2 * kManyTileRows;
  ManyArgs a;
  a.w_scales = c.w.scales;
  a.w_scale_stride = c.w.scale_stride;
  a.rows = static_cast<int32_t>(c.rows);
  a.columns = static_cast<int32_t>(c.gated ? c.w.out / 2 : c.w.out);
  a.k_blocks = static_cast<int32_t>(c.w.in / (c.w.format == Format::kFp8 ? 128 : 64));
  a.row_units = (a.rows + kUnitRows - 1) / kUnitRows;
  a.box_step = c.gated ? kManyBox : 2 * kManyBox;
  a.second_box = c.gated ? a.columns : kManyBox;
  a.column_tiles = (a.columns + a.box_step - 1) / a.box_step;
  a.items = a.row_units * a.column_tiles;
  a.band = std::min(a.row_units, kManyBand / 2);
  a.w_blocks = static_cast<int32_t>(c.w.out / kManyBox);
  a.split = {a.items, 0, 0, 0, 0};
  if (c.sums != nullptr) a.split = many_split(a.items, twos, a.k_blocks / kManyStages);
  a.sums = reinterpret_cast<float4*>(c.sums);
  a.words = c.words;
  a.out = c.out;
  a.scales_by_group = c.scales_by_group;
  a.peaks = c.peaks;
  a.peak_stride = c.peak_stride;
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
  if (error == cudaSuccess) error = load(many_exact_kernel<true>);
  if (error == cudaSuccess) error = load(many_exact_kernel<false>);
  return error;
}

cudaError_t many_gemm(cudaStream_t stream, const ManyCall& call, int32_t sms) {
  if (call.rows == 0) return cudaSuccess;
  const bool exact = call.w.format == Format::kBF16;
  const bool fits = exact ? many_exact_fits(call.w.out, call.w.in)
                          : many_gemm_fits(call.w.out, call.w.in, call.gated);
  if (!fits) return cudaErrorInvalidValue;
  ManyMaps maps;
  const cudaError_t error = make_maps(call, &maps);
  if (error != cudaSuccess) return error;
  auto* kernel = call.gated ? many_kernel<true> : many_kernel<false>;
  if (exact) kernel = call.peaks != nullptr ? many_exact_kernel<true> : many_exact_kernel<false>;
  const int32_t twos = sms / 2;
  const ManyArgs a = make_args(call, twos);
  const int32_t used = a.split.tail > 0 ? twos : std::min(twos, a.items);
  return launch_early_with_shared(stream, kernel, dim3(static_cast<unsigned>(used * 2)),
                                  dim3(kManyThreads), kManySharedBytes, maps, a);
}

}  // namespace fathom::kernels
