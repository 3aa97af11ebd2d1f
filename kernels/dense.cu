// Embedding, norms, linear layers, gates and the epilogues that round and quantize.
#include "dense.h"

#include "number.cuh"

namespace fathom::kernels {
namespace {

constexpr int kThreads = 256;

__global__ void embed_kernel(const int32_t* ids, Rows table, int64_t table_rows, int32_t first_row,
                             int64_t columns, Rows out) {
  const int64_t t = blockIdx.x;
  const int64_t at = ids[t] - int64_t{first_row};
  const bool here = at >= 0 && at < table_rows;
  for (int64_t k = threadIdx.x; k < columns; k += blockDim.x) {
    const float x = here ? load_number(table.data, table.format, at * table.stride + k) : 0.0F;
    store_number(out.data, out.format, t * out.stride + k, x);
  }
}

__global__ void rms_norm_kernel(Rows x, int64_t columns, const float* weight, float epsilon,
                                float* out) {
  __shared__ float shared[32];
  const int64_t i = blockIdx.x;
  float squares = 0.0F;
  for (int64_t k = threadIdx.x; k < columns; k += blockDim.x) {
    const float v = load_number(x.data, x.format, i * x.stride + k);
    squares += v * v;
  }
  const float scale =
      1.0F / sqrtf(block_sum(squares, shared) / static_cast<float>(columns) + epsilon);
  for (int64_t k = threadIdx.x; k < columns; k += blockDim.x) {
    out[i * columns + k] = load_number(x.data, x.format, i * x.stride + k) * scale * weight[k];
  }
}

__global__ void add_rows_kernel(Rows part, Rows sum, int64_t columns) {
  const int64_t i = blockIdx.x;
  for (int64_t k = threadIdx.x; k < columns; k += blockDim.x) {
    const float x = load_number(sum.data, sum.format, i * sum.stride + k) +
                    load_number(part.data, part.format, i * part.stride + k);
    store_number(sum.data, sum.format, i * sum.stride + k, x);
  }
}

__device__ float power_of_two_at_least(float x) {
  const uint32_t bits = __float_as_uint(x);
  const uint32_t up = (bits & 0x7FFFFFU) != 0 ? (bits & 0x7F800000U) + 0x800000U : bits;
  return __uint_as_float(up);
}

// One warp quantizes one group of at most 128 columns.
__device__ void quantize_group(const float* x, int64_t begin, int64_t end, int64_t group,
                               int64_t row, const Epilogue& out) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  float values[4];
  float largest = 1e-4F;
  for (int j = 0; j < 4; ++j) {
    const int64_t k = begin + lane + 32 * j;
    values[j] = k < end ? __bfloat162float(__float2bfloat16_rn(x[k])) : 0.0F;
    largest = fmaxf(largest, fabsf(values[j]));
  }
  for (int offset = 16; offset > 0; offset /= 2) {
    largest = fmaxf(largest, __shfl_xor_sync(0xFFFFFFFFU, largest, offset));
  }
  float scale = largest / 448.0F;
  if (out.ue8m0) scale = power_of_two_at_least(scale);
  for (int j = 0; j < 4; ++j) {
    const int64_t k = begin + lane + 32 * j;
    if (k < end) {
      static_cast<uint8_t*>(out.data)[row * out.stride + k] =
          __nv_cvt_float_to_fp8(values[j] / scale, __NV_SATFINITE, __NV_E4M3);
    }
  }
  if (lane == 0) out.scales[row * out.scale_stride + group] = scale;
}

__global__ void finish_kernel(const float* x, int64_t columns, int64_t stride, Epilogue out) {
  const int64_t i = blockIdx.x;
  const float* row = x + i * stride;
  if (out.format != Format::kFp8) {
    for (int64_t k = threadIdx.x; k < columns; k += blockDim.x) {
      store_number(out.data, out.format, i * out.stride + k, row[k]);
    }
    return;
  }
  const int64_t groups = (out.first_column_in_block + columns + 127) / 128;
  for (int64_t g = threadIdx.x / 32; g < groups; g += blockDim.x / 32) {
    const int64_t begin = max(int64_t{0}, g * 128 - out.first_column_in_block);
    const int64_t end = min(columns, (g + 1) * 128 - out.first_column_in_block);
    quantize_group(row, begin, end, g, i, out);
  }
}

// One warp an output element: lanes stride over a block's columns, then the block's scales apply.
__global__ void linear_kernel(Rows x, Matrix w, Rows out, Format round) {
  const int64_t o = int64_t{blockIdx.x} * (blockDim.x / 32) + threadIdx.x / 32;
  const int64_t i = blockIdx.y;
  const int lane = static_cast<int>(threadIdx.x % 32);
  if (o >= w.out) return;
  const bool scaled = w.format == Format::kFp8;
  const float* w_scales = scaled ? w.scales + w.scale_rows[o] * w.scale_stride : nullptr;
  const float* x_scales = x.scales != nullptr ? x.scales + i * x.scale_stride : nullptr;
  const int64_t width = scaled ? 128 : w.in;
  const int64_t offset = scaled ? w.first_column_in_block : 0;
  float total = 0.0F;
  for (int64_t block = 0, begin = 0; begin < w.in; ++block) {
    const int64_t end = min(w.in, (block + 1) * width - offset);
    float part = 0.0F;
    for (int64_t k = begin + lane; k < end; k += 32) {
      part += load_number(x.data, x.format, i * x.stride + k) *
              load_number(w.data, w.format, o * w.stride + k);
    }
    float scale = scaled ? w_scales[block] : 1.0F;
    if (x_scales != nullptr) scale *= x_scales[block];
    total += part * scale;
    begin = end;
  }
  total = warp_sum(total);
  if (lane == 0) store_number(out.data, out.format, i * out.stride + o, round_number(round, total));
}

__global__ void gate_kernel(const float* x, int64_t width, float* out) {
  const int64_t i = blockIdx.x;
  for (int64_t k = threadIdx.x; k < width; k += blockDim.x) {
    const float g = x[i * 2 * width + k];
    out[i * width + k] = g / (1.0F + expf(-fmaxf(g, -88.0F))) * x[i * 2 * width + width + k];
  }
}

__global__ void gather_kernel(const uint8_t* x, int64_t stride_bytes, const int32_t* index,
                              int64_t bytes, uint8_t* out) {
  const int64_t i = blockIdx.x;
  const uint8_t* from = x + index[i] * stride_bytes;
  for (int64_t k = threadIdx.x; k < bytes; k += blockDim.x) out[i * bytes + k] = from[k];
}

__global__ void concat_kernel(Rows left, int64_t left_columns, Rows right, int64_t right_columns,
                              float* out) {
  const int64_t i = blockIdx.x;
  const int64_t columns = left_columns + right_columns;
  for (int64_t k = threadIdx.x; k < columns; k += blockDim.x) {
    out[i * columns + k] =
        k < left_columns
            ? load_number(left.data, left.format, i * left.stride + k)
            : load_number(right.data, right.format, i * right.stride + k - left_columns);
  }
}

unsigned grid(int64_t n) { return static_cast<unsigned>(n); }

}  // namespace

void embed(cudaStream_t stream, const int32_t* ids, int64_t tokens, Rows table, int64_t table_rows,
           int32_t first_row, int64_t columns, Rows out) {
  if (tokens == 0) return;
  embed_kernel<<<grid(tokens), kThreads, 0, stream>>>(ids, table, table_rows, first_row, columns,
                                                      out);
}

void rms_norm(cudaStream_t stream, Rows x, int64_t rows, int64_t columns, const float* weight,
              float epsilon, float* out) {
  if (rows == 0) return;
  rms_norm_kernel<<<grid(rows), kThreads, 0, stream>>>(x, columns, weight, epsilon, out);
}

void add_rows(cudaStream_t stream, Rows part, Rows sum, int64_t rows, int64_t columns) {
  if (rows == 0) return;
  add_rows_kernel<<<grid(rows), kThreads, 0, stream>>>(part, sum, columns);
}

void finish_rows(cudaStream_t stream, const float* x, int64_t rows, int64_t columns, int64_t stride,
                 Epilogue out) {
  if (rows == 0) return;
  finish_kernel<<<grid(rows), kThreads, 0, stream>>>(x, columns, stride, out);
}

void linear(cudaStream_t stream, Rows x, int64_t rows, Matrix w, Rows out, Format round) {
  if (rows == 0 || w.out == 0) return;
  const dim3 blocks(grid((w.out + 7) / 8), grid(rows));
  linear_kernel<<<blocks, kThreads, 0, stream>>>(x, w, out, round);
}

void gate(cudaStream_t stream, const float* x, int64_t rows, int64_t width, float* out) {
  if (rows == 0) return;
  gate_kernel<<<grid(rows), kThreads, 0, stream>>>(x, width, out);
}

void gather(cudaStream_t stream, const void* x, int64_t stride_bytes, const int32_t* index,
            int64_t count, int64_t bytes, void* out) {
  if (count == 0) return;
  gather_kernel<<<grid(count), kThreads, 0, stream>>>(static_cast<const uint8_t*>(x), stride_bytes,
                                                      index, bytes, static_cast<uint8_t*>(out));
}

void concat(cudaStream_t stream, Rows left, int64_t left_columns, Rows right, int64_t right_columns,
            int64_t rows, float* out) {
  if (rows == 0) return;
  concat_kernel<<<grid(rows), kThreads, 0, stream>>>(left, left_columns, right, right_columns, out);
}

}  // namespace fathom::kernels
