// A warp has one group of 128 columns of one row, a lane four of them: the group's largest value is
// a shuffle away.
#include "async_copy.cuh"
#include "e4m3_group.cuh"
#include "early_launch.cuh"
#include "gated.h"
#include "number.cuh"

namespace fathom::kernels {
namespace {

constexpr int kWarps = 4;

struct GateArgs {
  Rows both;
  int64_t rows = 0;
  int64_t width = 0;
  int64_t groups = 0;  // of a row
  Epilogue out;
  bool in_fours = false;  // a lane's columns lie together and are aligned on both sides
};

// Columns `at` to at + 4 of a row that starts at `row`; those before 0 and past the width are 0.
__device__ void load_four(const GateArgs& a, int64_t row, int64_t first, int64_t at,
                          float (&to)[4]) {
  if (a.in_fours && a.both.format == Format::kBF16) {
    const auto* from = static_cast<const __nv_bfloat16*>(a.both.data) + row + first + at;
    const uint2 words = *reinterpret_cast<const uint2*>(from);
    to[0] = __uint_as_float(words.x << 16);
    to[1] = __uint_as_float(words.x & 0xFFFF0000U);
    to[2] = __uint_as_float(words.y << 16);
    to[3] = __uint_as_float(words.y & 0xFFFF0000U);
    return;
  }
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const int64_t k = at + j;
    const bool inside = k >= 0 && k < a.width;
    to[j] = inside ? load_number(a.both.data, a.both.format, row + first + k) : 0.0F;
  }
}

__device__ void store_plain(const GateArgs& a, int64_t i, int64_t at, const float (&values)[4]) {
  if (a.in_fours && a.out.format == Format::kBF16) {
    if (at >= a.width) return;
    const __nv_bfloat162 pairs[2] = {__floats2bfloat162_rn(values[0], values[1]),
                                     __floats2bfloat162_rn(values[2], values[3])};
    auto* to = static_cast<__nv_bfloat16*>(a.out.data) + i * a.out.stride + at;
    *reinterpret_cast<uint2*>(to) = *reinterpret_cast<const uint2*>(pairs);
    return;
  }
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const int64_t k = at + j;
    if (k >= 0 && k < a.width) {
      store_number(a.out.data, a.out.format, i * a.out.stride + k, values[j]);
    }
  }
}

__device__ float scale_of(float largest, bool ue8m0) {
  const float scale = largest / 448.0F;
  if (!ue8m0) return scale;
  const uint32_t bits = __float_as_uint(scale);
  const uint32_t up = (bits & 0x7FFFFFU) != 0 ? (bits & 0x7F800000U) + 0x800000U : bits;
  return __uint_as_float(up);
}

__device__ void store_quantized(const GateArgs& a, int64_t i, int64_t group, int64_t at,
                                float (&values)[4]) {
  float largest = 1e-4F;
#pragma unroll
  for (float& v : values) {
    v = round_number(Format::kBF16, v);
    largest = fmaxf(largest, fabsf(v));
  }
  for (int offset = 16; offset > 0; offset /= 2) {
    largest = fmaxf(largest, __shfl_xor_sync(0xFFFFFFFFU, largest, offset));
  }
  const float scale = scale_of(largest, a.out.ue8m0);
  const GroupDivision by(scale);
  const uint32_t codes = by.codes(values[0], values[1]) | by.codes(values[2], values[3]) << 16;
  auto* to = static_cast<uint8_t*>(a.out.data) + i * a.out.stride + at;
  if (a.in_fours) {
    if (at < a.width) *reinterpret_cast<uint32_t*>(to) = codes;
  } else {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (at + j >= 0 && at + j < a.width) to[j] = static_cast<uint8_t>(codes >> (8 * j));
    }
  }
  if (threadIdx.x % 32 == 0) a.out.scales[i * a.out.scale_stride + group] = scale;
}

__global__ void __launch_bounds__(kWarps * 32) gate_kernel(const __grid_constant__ GateArgs a) {
  let_next_kernel_start();
  const int64_t item = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  if (item >= a.rows * a.groups) return;
  const int64_t i = item / a.groups;
  const int64_t group = item % a.groups;
  const int64_t at = group * 128 - a.out.first_column_in_block + threadIdx.x % 32 * 4;
  wait_for_earlier_kernels();
  float gate[4] = {};
  float up[4] = {};
  if (!a.in_fours || at < a.width) {
    load_four(a, i * a.both.stride, 0, at, gate);
    load_four(a, i * a.both.stride, a.width, at, up);
  }
  float values[4];
#pragma unroll
  for (int j = 0; j < 4; ++j) values[j] = gate[j] / (1.0F + expf(-fmaxf(gate[j], -88.0F))) * up[j];
  if (a.out.format == Format::kFp8) {
    store_quantized(a, i, group, at, values);
  } else {
    store_plain(a, i, at, values);
  }
}

bool in_fours(const Rows& both, int64_t width, const Epilogue& out) {
  const auto even = [](const void* data, int64_t stride) {
    return reinterpret_cast<uintptr_t>(data) % 8 == 0 && stride % 4 == 0;
  };
  return out.first_column_in_block == 0 && width % 4 == 0 && even(both.data, both.stride) &&
         even(out.data, out.stride);
}

}  // namespace

cudaError_t gate_rows(cudaStream_t stream, Rows both, int64_t rows, int64_t width, Epilogue out) {
  if (rows == 0 || width == 0) return cudaSuccess;
  GateArgs a;
  a.both = both;
  a.rows = rows;
  a.width = width;
  a.groups = (out.first_column_in_block + width + 127) / 128;
  a.out = out;
  a.in_fours = in_fours(both, width, out);
  const auto blocks = static_cast<unsigned>((rows * a.groups + kWarps - 1) / kWarps);
  return launch_early(stream, gate_kernel, dim3(blocks), dim3(kWarps * 32), a);
}

}  // namespace fathom::kernels
