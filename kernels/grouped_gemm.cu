// Launches of the grouped products.
#include "early_launch.cuh"
#include "grouped_gemm.cuh"
#include "tensor_map.h"

namespace fathom::kernels {
namespace {

constexpr size_t kSharedBytes = sizeof(GroupedShared) + 1024;
static_assert(kSharedBytes <= 232448);

cudaError_t load(void (*kernel)(GroupedArgs)) {
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
}

// Without the numbers that gate_up and down differ in.
GroupedSide make_side(const GroupedMatrix* experts, Format format, int64_t in, const Rows& x) {
  const int64_t size = format == Format::kFp8 ? 1 : 2;
  GroupedSide side;
  side.experts = experts;
  side.x = static_cast<const uint8_t*>(x.data);
  side.x_words = static_cast<int32_t>(x.stride * size / 16);
  side.x_scales = x.scales;
  side.x_scale_stride = x.scale_stride;
  side.k_blocks = static_cast<int32_t>(in * size / kGroupedBytes);
  return side;
}

GroupedSide gate_up_side(const GroupedLayer& l, int64_t width, int32_t divisor,
                         const Epilogue& inner) {
  GroupedSide side = make_side(l.gate_up, l.format, l.hidden, l.x);
  side.x_divisor = divisor;
  side.row_tiles = static_cast<int32_t>(width / kGroupedBox);
  side.box_step = kGroupedBox;
  side.second_box = static_cast<int32_t>(width);
  side.rows_end = static_cast<int32_t>(2 * width);
  side.columns = static_cast<int32_t>(width);
  side.out = inner;
  return side;
}

GroupedSide down_side(const GroupedLayer& l, int64_t width, const Epilogue& inner,
                      const Rows& out) {
  GroupedSide side =
      make_side(l.down, l.format, width,
                {inner.data, l.format, inner.stride, inner.scales, inner.scale_stride});
  side.row_tiles = static_cast<int32_t>((l.hidden + 2 * kGroupedBox - 1) / (2 * kGroupedBox));
  side.box_step = 2 * kGroupedBox;
  side.second_box = kGroupedBox;
  side.rows_end = static_cast<int32_t>(l.hidden);
  side.columns = static_cast<int32_t>(l.hidden);
  side.out.data = out.data;
  side.out.stride = out.stride;
  return side;
}

}  // namespace

cudaError_t load_grouped_gemm() {
  for (const auto kernel : {grouped_kernel<Format::kFp8>, grouped_kernel<Format::kBF16>,
                            paired_kernel<Format::kFp8>, paired_kernel<Format::kBF16>}) {
    const cudaError_t error = load(kernel);
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

cudaError_t grouped_experts(cudaStream_t stream, const GroupedLayer& l,
                            const GroupedSchedule& schedule, int32_t sms, GroupedPart part) {
  GroupedArgs a;
  a.sides[kSharedGateUp] = gate_up_side(l, l.shared_width, 1, l.shared_inner);
  a.sides[kRoutedGateUp] = gate_up_side(l, l.width, l.k, l.inner);
  a.sides[kSharedDown] = down_side(l, l.shared_width, l.shared_inner, l.shared);
  a.sides[kRoutedDown] = down_side(l, l.width, l.inner, l.pairs);
  if (part == GroupedPart::kDown) a.first_kind = kSharedDown;
  if (part == GroupedPart::kGateUp) a.end_kind = kSharedDown;
  a.schedule = schedule;
  const bool fp8 = l.format == Format::kFp8;
  auto* kernel = fp8 ? grouped_kernel<Format::kFp8> : grouped_kernel<Format::kBF16>;
  if (schedule.paired) {
    kernel = fp8 ? paired_kernel<Format::kFp8> : paired_kernel<Format::kBF16>;
    sms = sms / 2 * 2;
  }
  return launch_early_with_shared(stream, kernel, dim3(static_cast<unsigned>(sms)),
                                  dim3(kGroupedThreads), kSharedBytes, a);
}

}  // namespace fathom::kernels
