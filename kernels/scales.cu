// A tile of 32 x 32 numbers a block, read along one side and written along the other.
#include "async_copy.cuh"
#include "early_launch.cuh"
#include "scales.h"

namespace fathom::kernels {
namespace {

constexpr int kTile = 32;
constexpr int kRows = 8;  // of threads

__global__ void transpose_kernel(const float* scales, int64_t stride, int64_t rows, int64_t groups,
                                 float* out) {
  __shared__ float tile[kTile][kTile + 1];
  const int64_t row = int64_t{blockIdx.x} * kTile;
  const int64_t group = int64_t{blockIdx.y} * kTile;
  wait_for_earlier_kernels();
  for (int i = static_cast<int>(threadIdx.y); i < kTile; i += kRows) {
    const int64_t from = group + threadIdx.x;
    if (row + i < rows && from < groups) {
      tile[i][threadIdx.x] = scales[(row + i) * stride + from];
    }
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.y); i < kTile; i += kRows) {
    const int64_t to = row + threadIdx.x;
    if (group + i < groups && to < rows) out[(group + i) * rows + to] = tile[threadIdx.x][i];
  }
}

}  // namespace

cudaError_t transpose_scales(cudaStream_t stream, const float* scales, int64_t stride, int64_t rows,
                             int64_t groups, float* out) {
  if (rows == 0 || groups == 0) return cudaSuccess;
  const dim3 grid(static_cast<unsigned>((rows + kTile - 1) / kTile),
                  static_cast<unsigned>((groups + kTile - 1) / kTile));
  return launch_early(stream, transpose_kernel, grid, dim3(kTile, kRows), scales, stride, rows,
                      groups, out);
}

}  // namespace fathom::kernels
