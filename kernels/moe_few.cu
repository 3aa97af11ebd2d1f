// Launches of the kernels for few tokens, maps of their weights, and the last of them: the weighted
// sum.
#include "moe_few.h"

#include "early_launch.cuh"
#include "moe_few.cuh"
#include "tensor_map.h"

namespace fathom::kernels {
namespace {

constexpr int kSumThreads = 64;

bool is_fp8(Format format) { return format == Format::kFp8; }

cudaError_t encode(CUtensorMap* map, const void* data, Format format, uint32_t rank,
                   const cuuint64_t* sizes, const cuuint64_t* strides, const cuuint32_t* box) {
  const auto function = tensor_map_encoder();
  if (function == nullptr) return cudaErrorNotSupported;
  const cuuint32_t step[4] = {1, 1, 1, 1};
  const CUresult result = function(
      map, is_fp8(format) ? CU_TENSOR_MAP_DATA_TYPE_UINT8 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, rank,
      const_cast<void*>(data), sizes, strides, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE,
      CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

// A box of `rows_each` rows and 128 bytes.
cudaError_t encode_rows(CUtensorMap* map, const void* data, Format format, int64_t columns,
                        int64_t rows, int64_t stride, int32_t rows_each) {
  const cuuint64_t bytes = is_fp8(format) ? 1 : 2;
  const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[1] = {static_cast<cuuint64_t>(stride) * bytes};
  const cuuint32_t box[2] = {static_cast<cuuint32_t>(128 / bytes),
                             static_cast<cuuint32_t>(rows_each)};
  return encode(map, data, format, 2, sizes, strides, box);
}

using Kernel = void (*)(CUtensorMap, MoeFew, MoeFewPlan);

template <Format kFormat, bool kDown>
Kernel kernel_of(int32_t token_tile) {
  switch (token_tile) {
    case 8: return product_kernel<kFormat, 8, kDown>;
    case 16: return product_kernel<kFormat, 16, kDown>;
    default: return product_kernel<kFormat, 32, kDown>;
  }
}

template <bool kDown>
Kernel kernel_of(Format format, int32_t token_tile) {
  return is_fp8(format) ? kernel_of<Format::kFp8, kDown>(token_tile)
                        : kernel_of<Format::kBF16, kDown>(token_tile);
}

template <bool kDown>
cudaError_t launch(cudaStream_t stream, const MoeFew& m, const CUtensorMap& x) {
  const int32_t columns = kDown ? m.width : m.hidden;
  const MoeFewPlan plan = moe_few_plan(m.tokens, m.experts_here, m.router.experts,
                                       is_fp8(m.format) ? columns : 2 * columns, kDown ? 2 : 1);
  if (plan.stages == 0) return cudaErrorInvalidValue;
  const int64_t tiles = kDown ? m.hidden / 64 : m.width / 32;
  const int32_t pairs = m.tokens * m.router.experts_per_token;
  const int64_t slots = m.shared_parts + (pairs < m.experts_here ? pairs : m.experts_here);
  const int64_t items = slots * tiles;
  const int64_t of_sm = kDown ? moe_down_blocks_of_sm(m.tokens, plan, items, m.sms)
                              : moe_blocks_of_sm(m.tokens, plan);
  const int64_t room = of_sm * m.sms;
  const int64_t blocks = items < room ? items : room;
  return launch_early_with_shared(stream, kernel_of<kDown>(m.format, plan.token_tile),
                                  dim3(static_cast<unsigned>(blocks)), dim3(kMoeFewThreads),
                                  static_cast<size_t>(plan.bytes), x, m, plan);
}

__device__ float4 rounded(const float4& v) {
  return make_float4(round_number(Format::kBF16, v.x), round_number(Format::kBF16, v.y),
                     round_number(Format::kBF16, v.z), round_number(Format::kBF16, v.w));
}

__device__ void add_scaled(float4& total, float weight, const float4& v) {
  total.x += weight * v.x;
  total.y += weight * v.y;
  total.z += weight * v.z;
  total.w += weight * v.w;
}

// A block has 256 columns of a token. The choices are known when it starts: down lets it start
// after its own wait for the kernel that wrote them.
__global__ void __launch_bounds__(kSumThreads) sum_kernel(const __grid_constant__ MoeFew m) {
  constexpr int kAtOnce = 8;
  const int64_t token = blockIdx.y;
  const int32_t k = m.router.experts_per_token;
  const auto lane = static_cast<int32_t>(threadIdx.x % 32);
  const int64_t pair = token * k + min(lane, k - 1);
  const bool here = lane < k && __ldcg(m.ids + pair) >= 0;
  const float weight = __ldcg(m.weights + pair);
  const uint32_t all = __ballot_sync(0xFFFFFFFFU, here);
  let_next_kernel_start();
  wait_for_earlier_kernels();
  const int64_t column = 4 * (int64_t{blockIdx.x} * kSumThreads + threadIdx.x);
  const bool inside = column < m.hidden;
  const auto row = [&](int64_t at) {
    return __ldcg(reinterpret_cast<const float4*>(m.rows + at * m.hidden + column));
  };
  float4 shared = make_float4(0.0F, 0.0F, 0.0F, 0.0F);
  for (int32_t part = 0; inside && part < m.shared_parts; ++part)
    add_scaled(shared, 1.0F, row(int64_t{m.tokens} * (k + part) + token));
  float4 total = make_float4(0.0F, 0.0F, 0.0F, 0.0F);
  for (int32_t first = 0; first < k; first += kAtOnce) {
    float4 v[kAtOnce];
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      v[j] = make_float4(0.0F, 0.0F, 0.0F, 0.0F);
      if (inside && first + j < k && (all >> (first + j) & 1U) != 0)
        v[j] = row(token * k + first + j);
    }
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const float w = __shfl_sync(0xFFFFFFFFU, weight, (first + j) & 31);
      if (first + j < k && (all >> (first + j) & 1U) != 0) add_scaled(total, w, rounded(v[j]));
    }
  }
  if (!inside) return;
  add_scaled(total, 1.0F, rounded(shared));
  auto* to = static_cast<__nv_bfloat16*>(m.out.data) + token * m.out.stride + column;
  *reinterpret_cast<uint2*>(to) =
      make_uint2(pack_pair(total.x, total.y), pack_pair(total.z, total.w));
}

}  // namespace

cudaError_t load_moe_few() {
  for (const Format format : {Format::kFp8, Format::kBF16}) {
    for (const int32_t tokens : {8, 16, 32}) {
      for (const Kernel kernel :
           {kernel_of<false>(format, tokens), kernel_of<true>(format, tokens)}) {
        cudaError_t error = cudaFuncSetAttribute(
            kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared);
        if (error != cudaSuccess) return error;
        error =
            cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 227 * 1024);
        if (error != cudaSuccess) return error;
      }
    }
  }
  return cudaSuccess;
}

cudaError_t moe_few_expert(const Matrix& gate_up, const Matrix& down, MoeFewExpert* out) {
  const cuuint64_t bytes = is_fp8(gate_up.format) ? 1 : 2;
  const auto in = static_cast<cuuint64_t>(gate_up.in);
  const auto width = static_cast<cuuint64_t>(gate_up.out / 2);
  const cuuint64_t row = static_cast<cuuint64_t>(gate_up.stride) * bytes;
  const cuuint64_t sizes[4] = {in, 8, 2, width / 8};
  const cuuint64_t strides[3] = {row, width * row, 8 * row};
  const cuuint32_t box[4] = {static_cast<cuuint32_t>(128 / bytes), 8, 2, 4};
  const cudaError_t error =
      encode(&out->gate_up, gate_up.data, gate_up.format, 4, sizes, strides, box);
  if (error != cudaSuccess) return error;
  out->gate_up_scales = gate_up.scales;
  out->down_scales = down.scales;
  out->gate_up_stride = gate_up.scale_stride;
  out->down_stride = down.scale_stride;
  out->width = gate_up.out / 2;
  return encode_rows(&out->down, down.data, down.format, down.in, down.out, down.stride, 64);
}

cudaError_t moe_few_gate_up(cudaStream_t stream, const MoeFew& m) {
  CUtensorMap x;
  const bool fp8 = is_fp8(m.format);
  const cudaError_t error = encode_rows(&x, fp8 ? m.codes : m.x.data, m.format, m.hidden, m.tokens,
                                        fp8 ? m.hidden : m.x.stride, moe_token_tile(m.tokens));
  return error != cudaSuccess ? error : launch<false>(stream, m, x);
}

cudaError_t moe_few_down(cudaStream_t stream, const MoeFew& m) {
  return launch<true>(stream, m, CUtensorMap{});
}

cudaError_t moe_few_combine(cudaStream_t stream, const MoeFew& m) {
  const dim3 grid(static_cast<unsigned>((m.hidden + 4 * kSumThreads - 1) / (4 * kSumThreads)),
                  static_cast<unsigned>(m.tokens));
  return launch_early(stream, sum_kernel, grid, dim3(kSumThreads), m);
}

}  // namespace fathom::kernels
