// Launches of the grouped product.
#include "grouped_gemm.cuh"
#include "tensor_map.h"

namespace fathom::kernels {
namespace {

constexpr size_t kSharedBytes = sizeof(GroupedShared) + 1024;
static_assert(kSharedBytes <= 232448);

template <Format kFormat, bool kGated>
cudaError_t load() {
  return cudaFuncSetAttribute(grouped_kernel<kFormat, kGated>,
                              cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
}

GroupedArgs make_args(const GroupedMatrix* experts, Format format, int64_t in, const Rows& x,
                      const GroupedSchedule& schedule) {
  const int64_t size = format == Format::kFp8 ? 1 : 2;
  GroupedArgs a;
  a.experts = experts;
  a.tiles = schedule.tiles;
  a.tile_count = schedule.tile_count;
  a.order = schedule.order;
  a.x = static_cast<const uint8_t*>(x.data);
  a.x_words = static_cast<int32_t>(x.stride * size / 16);
  a.x_scales = x.scales;
  a.x_scale_stride = x.scale_stride;
  a.k_blocks = static_cast<int32_t>(in * size / kGroupedBytes);
  return a;
}

template <bool kGated>
void launch(cudaStream_t stream, Format format, const GroupedArgs& a, int32_t sms) {
  auto* kernel = format == Format::kFp8 ? grouped_kernel<Format::kFp8, kGated>
                                        : grouped_kernel<Format::kBF16, kGated>;
  kernel<<<static_cast<unsigned>(sms), kGroupedThreads, kSharedBytes, stream>>>(a);
}

}  // namespace

cudaError_t load_grouped_gemm() {
  for (const cudaError_t error : {load<Format::kFp8, true>(), load<Format::kFp8, false>(),
                                  load<Format::kBF16, true>(), load<Format::kBF16, false>()}) {
    if (error != cudaSuccess) return error;
  }
  return tensor_map_encoder() != nullptr ? cudaSuccess : cudaErrorNotSupported;
}

cudaError_t grouped_matrix(const Matrix& w, GroupedMatrix* out) {
  const auto function = tensor_map_encoder();
  if (function == nullptr) return cudaErrorNotSupported;
  const bool fp8 = w.format == Format::kFp8;
  const cuuint64_t size[2] = {static_cast<cuuint64_t>(w.in), static_cast<cuuint64_t>(w.out)};
  const cuuint64_t stride_bytes[1] = {static_cast<cuuint64_t>(w.stride * (fp8 ? 1 : 2))};
  const cuuint32_t box[2] = {kGroupedBytes / (fp8 ? 1U : 2U), kGroupedBox};
  const cuuint32_t step[2] = {1, 1};
  out->scales = w.scales;
  out->scale_stride = w.scale_stride;
  const CUresult result =
      function(&out->map, fp8 ? CU_TENSOR_MAP_DATA_TYPE_UINT8 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2,
               const_cast<void*>(w.data), size, stride_bytes, box, step,
               CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
               CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

void grouped_gate_up(cudaStream_t stream, const GroupedMatrix* experts, Format format, int64_t in,
                     int64_t width, Rows x, int32_t k, const GroupedSchedule& schedule,
                     const Epilogue& inner, int32_t sms) {
  GroupedArgs a = make_args(experts, format, in, x, schedule);
  a.x_divisor = k;
  a.row_tiles = static_cast<int32_t>(width / kGroupedBox);
  a.box_step = kGroupedBox;
  a.second_box = static_cast<int32_t>(width);
  a.rows_end = static_cast<int32_t>(2 * width);
  a.columns = static_cast<int32_t>(width);
  a.out = inner;
  launch<true>(stream, format, a, sms);
}

void grouped_down(cudaStream_t stream, const GroupedMatrix* experts, Format format, int64_t in,
                  int64_t first_column, int64_t columns, Rows inner,
                  const GroupedSchedule& schedule, const Rows& out, int32_t sms) {
  GroupedArgs a = make_args(experts, format, in, inner, schedule);
  a.x_in_order = true;
  a.row_tiles = static_cast<int32_t>((columns + 2 * kGroupedBox - 1) / (2 * kGroupedBox));
  a.box_step = 2 * kGroupedBox;
  a.first_row = static_cast<int32_t>(first_column);
  a.second_box = kGroupedBox;
  a.rows_end = static_cast<int32_t>(first_column + columns);
  a.columns = static_cast<int32_t>(columns);
  a.out.data = out.data;
  a.out.stride = out.stride;
  launch<false>(stream, format, a, sms);
}

}  // namespace fathom::kernels
