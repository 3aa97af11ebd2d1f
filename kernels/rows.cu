// Row kernels: a thread holds vectors of eight columns from its loads to its stores.
#include "rows.h"

#include <algorithm>

#include "async_copy.cuh"
#include "e4m3_group.cuh"
#include "early_launch.cuh"
#include "number.cuh"

namespace fathom::kernels {
namespace {

constexpr int kVector = kRowVector;
constexpr int kGroupThreads = 128 / kVector;  // that hold a group of quantization
constexpr int kThreads = 128;                 // of kernels without sums over a row
constexpr int kNormThreadsMax = kNormColumnsMax / kVector;
constexpr int kManyNormThreadsMax = kNormThreadsMax / 2;
constexpr int kManyNormBlocks = 4;  // of 256 threads, that an SM has room for

struct alignas(16) Bf16Vector {
  __nv_bfloat162 pairs[kVector / 2];
};

__device__ void load_vector(const void* data, Format format, int64_t at, float (&v)[kVector]) {
  if (format == Format::kF32) {
    const auto* from = reinterpret_cast<const float4*>(static_cast<const float*>(data) + at);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float4 four = from[i];
      v[4 * i] = four.x;
      v[4 * i + 1] = four.y;
      v[4 * i + 2] = four.z;
      v[4 * i + 3] = four.w;
    }
    return;
  }
  const auto eight =
      *reinterpret_cast<const Bf16Vector*>(static_cast<const __nv_bfloat16*>(data) + at);
#pragma unroll
  for (int i = 0; i < kVector / 2; ++i) {
    const float2 two = __bfloat1622float2(eight.pairs[i]);
    v[2 * i] = two.x;
    v[2 * i + 1] = two.y;
  }
}

__device__ void store_vector(void* data, Format format, int64_t at, const float (&v)[kVector]) {
  if (format == Format::kF32) {
    auto* to = reinterpret_cast<float4*>(static_cast<float*>(data) + at);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      to[i] = make_float4(v[4 * i], v[4 * i + 1], v[4 * i + 2], v[4 * i + 3]);
    }
    return;
  }
  Bf16Vector eight;
#pragma unroll
  for (int i = 0; i < kVector / 2; ++i) {
    eight.pairs[i] = __floats2bfloat162_rn(v[2 * i], v[2 * i + 1]);
  }
  *reinterpret_cast<Bf16Vector*>(static_cast<__nv_bfloat16*>(data) + at) = eight;
}

__device__ void round_vector(Format format, float (&v)[kVector]) {
#pragma unroll
  for (float& x : v) x = round_number(format, x);
}

__device__ float power_of_two_at_least(float x) {
  const uint32_t bits = __float_as_uint(x);
  const uint32_t up = (bits & 0x7FFFFFU) != 0 ? (bits & 0x7F800000U) + 0x800000U : bits;
  return __uint_as_float(up);
}

// Columns [column, column + 8) of a row as `out` wants them. All lanes of a warp call it, and 16
// neighbours hold a group; `here` is false past the row's end, where `v` is zero.
__device__ void finish_vector(const Epilogue& out, int64_t row, int64_t column, bool here,
                              float (&v)[kVector]) {
  if (out.format != Format::kFp8) {
    if (here) store_vector(out.data, out.format, row * out.stride + column, v);
    return;
  }
  round_vector(Format::kBF16, v);
  float largest = 1e-4F;
#pragma unroll
  for (const float x : v) largest = fmaxf(largest, fabsf(x));
#pragma unroll
  for (int offset = kGroupThreads / 2; offset > 0; offset /= 2) {
    largest = fmaxf(largest, __shfl_xor_sync(0xFFFFFFFFU, largest, offset));
  }
  float scale = largest / 448.0F;
  if (out.ue8m0) scale = power_of_two_at_least(scale);
  if (!here) return;
  const GroupDivision by(scale);
  uint32_t codes[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float* four = v + 4 * half;
    codes[half] = by.codes(four[0], four[1]) | by.codes(four[2], four[3]) << 16;
  }
  auto* to = static_cast<uint8_t*>(out.data) + row * out.stride + column;
  *reinterpret_cast<uint2*>(to) = make_uint2(codes[0], codes[1]);
  if (threadIdx.x % kGroupThreads == 0) out.scales[row * out.scale_stride + column / 128] = scale;
}

// A block a row, a vector a thread. Weights are there before the row is.
__global__ void __launch_bounds__(kNormThreadsMax)
    add_norm_kernel(Rows part, Rows x, int64_t columns, const float* weight, float epsilon,
                    Epilogue out) {
  __shared__ float shared[32];
  const int64_t row = blockIdx.x;
  const int64_t k = int64_t{threadIdx.x} * kVector;
  const bool here = k < columns;
  float w[kVector] = {};
  float v[kVector] = {};
  let_next_kernel_start();
  if (here) load_vector(weight, Format::kF32, k, w);
  wait_for_earlier_kernels();
  if (here) load_vector(x.data, x.format, row * x.stride + k, v);
  if (here && part.data != nullptr) {
    float more[kVector];
    load_vector(part.data, part.format, row * part.stride + k, more);
#pragma unroll
    for (int i = 0; i < kVector; ++i) v[i] += more[i];
    round_vector(x.format, v);
    store_vector(x.data, x.format, row * x.stride + k, v);
  }
  float squares = 0.0F;
#pragma unroll
  for (const float a : v) squares += a * a;
  const float scale =
      1.0F / sqrtf(block_sum(squares, shared) / static_cast<float>(columns) + epsilon);
#pragma unroll
  for (int i = 0; i < kVector; ++i) v[i] = v[i] * scale * w[i];
  finish_vector(out, row, k, here, v);
}

// The row's two vectors of a thread as they lie in memory: asked for a row ahead.
struct RowWords {
  uint4 x[2];
  uint4 part[2];

  __device__ void load(const Rows& rows, const Rows& more, int64_t row, int64_t k,
                       int64_t further) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int64_t at = k + i * further;
      x[i] = *reinterpret_cast<const uint4*>(static_cast<const __nv_bfloat16*>(rows.data) +
                                             row * rows.stride + at);
      if (more.data != nullptr) {
        part[i] = *reinterpret_cast<const uint4*>(static_cast<const __nv_bfloat16*>(more.data) +
                                                  row * more.stride + at);
      }
    }
  }
};

__device__ void widen(const uint4& words, float (&v)[kVector]) {
  const uint32_t all[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    v[2 * i] = __uint_as_float(all[i] << 16);
    v[2 * i + 1] = __uint_as_float(all[i] & 0xFFFF0000U);
  }
}

// add_norm_kernel for many rows of bf16: blocks stay, and ask for their next row before they sum
// this one. A thread has the vectors of two threads there, and sums are added in that order.
__global__ void __launch_bounds__(kManyNormThreadsMax, 2)
    add_norm_many_kernel(Rows part, Rows x, int64_t rows, int64_t columns, const float* weight,
                         float epsilon, Epilogue out) {
  __shared__ float shared[2][32];
  const int64_t k = int64_t{threadIdx.x} * kVector;
  const int64_t further = columns / 2;
  const auto warps = static_cast<int>(blockDim.x / 32);
  const auto warp = static_cast<int>(threadIdx.x / 32);
  let_next_kernel_start();
  wait_for_earlier_kernels();
  int64_t row = blockIdx.x;
  RowWords words;
  words.load(x, part, row, k, further);
  for (int turn = 0; row < rows; row += gridDim.x, turn ^= 1) {
    float v[2][kVector];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      widen(words.x[i], v[i]);
      if (part.data != nullptr) {
        float more[kVector];
        widen(words.part[i], more);
#pragma unroll
        for (int j = 0; j < kVector; ++j) v[i][j] += more[j];
        round_vector(Format::kBF16, v[i]);
        store_vector(x.data, Format::kBF16, row * x.stride + k + i * further, v[i]);
      }
    }
    const int64_t next = row + gridDim.x;
    if (next < rows) words.load(x, part, next, k, further);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float squares = 0.0F;
#pragma unroll
      for (const float a : v[i]) squares += a * a;
      squares = warp_sum(squares);
      if (threadIdx.x % 32 == 0) shared[turn][i * warps + warp] = squares;
    }
    __syncthreads();
    float total = 0.0F;
    for (int i = 0; i < 2 * warps; ++i) total += shared[turn][i];
    const float scale = 1.0F / sqrtf(total / static_cast<float>(columns) + epsilon);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float w[kVector];
      load_vector(weight, Format::kF32, k + i * further, w);
#pragma unroll
      for (int j = 0; j < kVector; ++j) v[i][j] = v[i][j] * scale * w[j];
      finish_vector(out, row, k + i * further, true, v[i]);
    }
  }
}

__global__ void join_rows_kernel(Rows left, int64_t left_columns, Rows right, int64_t columns,
                                 Epilogue out) {
  const int64_t row = blockIdx.x;
  const int64_t k = (int64_t{blockIdx.y} * blockDim.x + threadIdx.x) * kVector;
  let_next_kernel_start();
  wait_for_earlier_kernels();
  float v[kVector] = {};
  if (k < left_columns) {
    load_vector(left.data, left.format, row * left.stride + k, v);
  } else if (k < columns) {
    load_vector(right.data, right.format, row * right.stride + k - left_columns, v);
  }
  finish_vector(out, row, k, k < columns, v);
}

__global__ void add_to_rows_kernel(Rows part, Rows x, int64_t columns) {
  const int64_t row = blockIdx.x;
  const int64_t k = (int64_t{blockIdx.y} * blockDim.x + threadIdx.x) * kVector;
  let_next_kernel_start();
  wait_for_earlier_kernels();
  if (k >= columns) return;
  float v[kVector];
  float more[kVector];
  load_vector(x.data, x.format, row * x.stride + k, v);
  load_vector(part.data, part.format, row * part.stride + k, more);
#pragma unroll
  for (int i = 0; i < kVector; ++i) v[i] += more[i];
  store_vector(x.data, x.format, row * x.stride + k, v);
}

__global__ void pick_rows_kernel(const int32_t* index, Rows table, int64_t table_rows,
                                 int32_t first_row, int64_t columns, Epilogue out) {
  const int64_t row = blockIdx.x;
  const int64_t k = (int64_t{blockIdx.y} * blockDim.x + threadIdx.x) * kVector;
  let_next_kernel_start();
  wait_for_earlier_kernels();
  const int64_t at = index[row] - int64_t{first_row};
  const bool here = at >= 0 && at < table_rows;
  float v[kVector] = {};
  if (here && k < columns) load_vector(table.data, table.format, at * table.stride + k, v);
  finish_vector(out, row, k, k < columns, v);
}

// A block for every 1024 columns of a row.
dim3 blocks_of(int64_t rows, int64_t columns) {
  const int64_t each = kThreads * kVector;
  return {static_cast<unsigned>(rows), static_cast<unsigned>((columns + each - 1) / each)};
}

// As many blocks as run at a time.
cudaError_t add_norm_many(cudaStream_t stream, Rows part, Rows x, int64_t rows, int64_t columns,
                          const float* weight, float epsilon, const Epilogue& out) {
  int device = 0;
  int sms = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess)
    error = cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device);
  if (error != cudaSuccess) return error;
  const int64_t threads = columns / kVector / 2;
  const int64_t blocks = int64_t{sms} * std::max<int64_t>(1, kManyNormBlocks * 256 / threads);
  return launch_early(
      stream, add_norm_many_kernel, dim3(static_cast<unsigned>(std::min(rows, blocks))),
      dim3(static_cast<unsigned>(threads)), part, x, rows, columns, weight, epsilon, out);
}

}  // namespace

cudaError_t add_norm_rows(cudaStream_t stream, Rows part, Rows x, int64_t rows, int64_t columns,
                          const float* weight, float epsilon, const Epilogue& out) {
  if (rows == 0) return cudaSuccess;
  const int64_t vectors = columns / kVector;
  if (vectors > kNormThreadsMax) return cudaErrorInvalidValue;
  const bool bf16 =
      x.format == Format::kBF16 && (part.data == nullptr || part.format == Format::kBF16);
  if (bf16 && norms_many_rows(rows, columns)) {
    return add_norm_many(stream, part, x, rows, columns, weight, epsilon, out);
  }
  const auto threads = static_cast<unsigned>((vectors + 31) / 32 * 32);
  return launch_early(stream, add_norm_kernel, dim3(static_cast<unsigned>(rows)), dim3(threads),
                      part, x, columns, weight, epsilon, out);
}

cudaError_t join_rows(cudaStream_t stream, Rows left, int64_t left_columns, Rows right,
                      int64_t right_columns, int64_t rows, const Epilogue& out) {
  if (rows == 0) return cudaSuccess;
  const int64_t columns = left_columns + right_columns;
  return launch_early(stream, join_rows_kernel, blocks_of(rows, columns), dim3(kThreads), left,
                      left_columns, right, columns, out);
}

cudaError_t add_to_rows(cudaStream_t stream, Rows part, Rows x, int64_t rows, int64_t columns) {
  if (rows == 0) return cudaSuccess;
  return launch_early(stream, add_to_rows_kernel, blocks_of(rows, columns), dim3(kThreads), part, x,
                      columns);
}

cudaError_t pick_rows(cudaStream_t stream, const int32_t* index, int64_t count, Rows table,
                      int64_t table_rows, int32_t first_row, int64_t columns, const Epilogue& out) {
  if (count == 0) return cudaSuccess;
  return launch_early(stream, pick_rows_kernel, blocks_of(count, columns), dim3(kThreads), index,
                      table, table_rows, first_row, columns, out);
}

}  // namespace fathom::kernels
