// What the benchmarks of linear layers share: random data on the device, errors, times.
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "kernels/number.cuh"

namespace fathom::bench {

using kernels::Format;

inline void require(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  std::exit(1);
}

// ---- Data: normal values in the format's range, a function of (seed, index).

__host__ __device__ inline uint32_t hashed(uint64_t x) {
  x ^= x >> 33;
  x *= 0xFF51AFD7ED558CCDULL;
  x ^= x >> 33;
  x *= 0xC4CEB9FE1A85EC53ULL;
  return static_cast<uint32_t>(x >> 32);
}

__device__ inline float normal_at(uint64_t seed, int64_t i) {
  const uint32_t a = hashed(seed * 0x9E3779B97F4A7C15ULL + 2 * i);
  const uint32_t b = hashed(seed * 0x9E3779B97F4A7C15ULL + 2 * i + 1);
  const float u = (static_cast<float>(a >> 8) + 1.0F) * (1.0F / 16777217.0F);
  return sqrtf(-2.0F * logf(u)) * cospif(2.0F * static_cast<float>(b >> 8) * (1.0F / 16777216.0F));
}

static __global__ void fill_kernel(void* p, Format format, int64_t n, uint64_t seed, float scale) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < n; i += step) {
    const float x = normal_at(seed, i) * scale;
    if (format == Format::kFp8) {
      static_cast<uint8_t*>(p)[i] = __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3);
    } else {
      kernels::store_number(p, format, i, x);
    }
  }
}

static __global__ void fill_scales_kernel(float* p, int64_t n, uint64_t seed) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < n) p[i] = 1e-3F * (1.0F + static_cast<float>(hashed(seed + i) & 1023) / 512.0F);
}

static __global__ void fill_scale_rows_kernel(int32_t* p, int64_t n) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < n) p[i] = static_cast<int32_t>(i / 128);
}

// sums[0] = |a - b|^2, sums[1] = |b|^2; NaN when an output was not written.
static __global__ void difference_kernel(const float* a, const float* b, int64_t n, double* sums) {
  double difference = 0.0;
  double size = 0.0;
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
    const double d = static_cast<double>(a[i]) - b[i];
    difference += d * d;
    size += static_cast<double>(b[i]) * b[i];
  }
  __shared__ double shared[2][1024];
  shared[0][threadIdx.x] = difference;
  shared[1][threadIdx.x] = size;
  __syncthreads();
  if (threadIdx.x < 2) {
    double total = 0.0;
    for (unsigned i = 0; i < blockDim.x; ++i) total += shared[threadIdx.x][i];
    sums[threadIdx.x] = total;
  }
}

// Median of repeats of `launch`, microseconds.
template <typename Launch>
double median_us(cudaStream_t stream, int repeats, const Launch& launch) {
  std::vector<cudaEvent_t> events(static_cast<size_t>(repeats) + 1);
  for (cudaEvent_t& e : events) require(cudaEventCreate(&e), "event");
  for (int i = 0; i < 3; ++i) launch();
  require(cudaEventRecord(events[0], stream), "event");
  for (int i = 0; i < repeats; ++i) {
    launch();
    require(cudaEventRecord(events[static_cast<size_t>(i) + 1], stream), "event");
  }
  require(cudaStreamSynchronize(stream), "timing");
  std::vector<double> times;
  for (int i = 0; i < repeats; ++i) {
    float ms = 0.0F;
    const auto at = static_cast<size_t>(i);
    require(cudaEventElapsedTime(&ms, events[at], events[at + 1]), "event");
    times.push_back(1e3 * static_cast<double>(ms));
  }
  for (cudaEvent_t e : events) cudaEventDestroy(e);
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

template <typename T>
T* device_array(int64_t n) {
  void* p = nullptr;
  require(cudaMalloc(&p, static_cast<size_t>(n) * sizeof(T)), "cudaMalloc");
  return static_cast<T*>(p);
}

// Scales of weights and of rows, and each row's place among the weights'.
struct ScaleData {
  static constexpr int64_t kCount = 1 << 20;
  float* weights = nullptr;
  float* rows = nullptr;
  int32_t* places = nullptr;
};

inline ScaleData make_scales(cudaStream_t stream) {
  constexpr int64_t n = ScaleData::kCount;
  const ScaleData s{device_array<float>(n), device_array<float>(n), device_array<int32_t>(n)};
  fill_scales_kernel<<<n / 256, 256, 0, stream>>>(s.weights, n, 11);
  fill_scales_kernel<<<n / 256, 256, 0, stream>>>(s.rows, n, 12);
  fill_scale_rows_kernel<<<n / 256, 256, 0, stream>>>(s.places, n);
  require(cudaStreamSynchronize(stream), "fill");
  return s;
}

}  // namespace fathom::bench
