// A layer of experts with random weights, and the arrays of a benchmark of it.
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "kernels/format.h"
#include "kernels/grouped_gemm.h"
#include "kernels/number.cuh"

namespace fathom::kernels {

inline void require(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  std::exit(1);
}

// ---- Data: normal values in the format's range, a function of (seed, index).

__device__ uint32_t hashed(uint64_t x) {
  x ^= x >> 33;
  x *= 0xFF51AFD7ED558CCDULL;
  x ^= x >> 33;
  x *= 0xC4CEB9FE1A85EC53ULL;
  return static_cast<uint32_t>(x >> 32);
}

__device__ float normal_at(uint64_t seed, int64_t i) {
  const uint32_t a = hashed(seed * 0x9E3779B97F4A7C15ULL + 2 * i);
  const uint32_t b = hashed(seed * 0x9E3779B97F4A7C15ULL + 2 * i + 1);
  const float u = (static_cast<float>(a >> 8) + 1.0F) * (1.0F / 16777217.0F);
  return sqrtf(-2.0F * __logf(u)) * cospif(2.0F * static_cast<float>(b >> 8) * 0x1p-24F);
}

__global__ void fill_kernel(void* p, Format format, int64_t n, uint64_t seed, float scale) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < n; i += step) {
    const float x = normal_at(seed, i) * scale;
    if (format == Format::kFp8) {
      static_cast<uint8_t*>(p)[i] = __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3);
    } else {
      store_number(p, format, i, x);
    }
  }
}

__global__ void fill_scales_kernel(float* p, int64_t n, uint64_t seed, float scale) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < n) p[i] = scale * (0.5F + static_cast<float>(hashed(seed + i) & 1023) / 1024.0F);
}

__global__ void scale_rows_kernel(int32_t* p, int64_t n) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < n) p[i] = static_cast<int32_t>(i / 128);
}

// sums[0] += |a - b|^2, sums[1] += |b|^2; NaN when an output was not written. b: float32.
__global__ void difference_kernel(const void* a, Format format, const float* b, int64_t n,
                                  double* sums) {
  double difference = 0.0;
  double size = 0.0;
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < n; i += step) {
    const double d = static_cast<double>(load_number(a, format, i)) - b[i];
    difference += d * d;
    size += static_cast<double>(b[i]) * b[i];
  }
  atomicAdd(&sums[0], difference);
  atomicAdd(&sums[1], size);
}

template <typename T>
T* device_array(int64_t n) {
  void* p = nullptr;
  require(cudaMalloc(&p, static_cast<size_t>(std::max<int64_t>(n, 1)) * sizeof(T)), "cudaMalloc");
  return static_cast<T*>(p);
}

template <typename T>
T* on_device(const std::vector<T>& host) {
  T* p = device_array<T>(static_cast<int64_t>(host.size()));
  require(cudaMemcpy(p, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice), "upload");
  return p;
}

// ---- A layer.

struct Shape {
  const char* name;
  Format format;
  int32_t experts;
  int32_t k;
  int64_t hidden;
  int64_t width;
  int64_t shared_width;
};

struct Layer {
  Shape s;
  std::vector<void*> memory;
  GroupedMatrix* gate_up = nullptr;
  GroupedMatrix* down = nullptr;
  Matrix* plain_gate_up = nullptr;  // the shared expert's last, as above
  Matrix* plain_down = nullptr;
  float* router = nullptr;

  template <typename T>
  T* own(T* p) {
    memory.push_back(p);
    return p;
  }
};

inline int64_t bytes_of(Format format) { return format == Format::kFp8 ? 1 : 2; }

inline void fill(cudaStream_t stream, void* p, Format format, int64_t n, uint64_t seed,
                 float scale) {
  fill_kernel<<<132 * 8, 256, 0, stream>>>(p, format, n, seed, scale);
}

// Matrices [out, in] of all experts, one after another, and of the shared expert.
struct Matrices {
  std::vector<GroupedMatrix> maps;
  std::vector<Matrix> plain;
};

inline void add_matrices(cudaStream_t stream, Layer& layer, int32_t count, int64_t out, int64_t in,
                         uint64_t seed, Matrices& all) {
  const Shape& s = layer.s;
  const int64_t each = out * in;
  const bool fp8 = s.format == Format::kFp8;
  auto* values = layer.own(device_array<uint8_t>(count * each * bytes_of(s.format)));
  const int64_t scales_each = out / 128 * (in / 128);
  auto* scales = layer.own(device_array<float>(count * scales_each));
  auto* scale_rows = layer.own(device_array<int32_t>(out));
  const float deviation = 1.0F / std::sqrt(static_cast<float>(in));
  fill(stream, values, s.format, count * each, seed, fp8 ? 60.0F : deviation);
  fill_scales_kernel<<<static_cast<unsigned>(count * scales_each / 256 + 1), 256, 0, stream>>>(
      scales, count * scales_each, seed + 1, deviation / 60.0F);
  scale_rows_kernel<<<static_cast<unsigned>(out / 128 + 1), 128, 0, stream>>>(scale_rows, out);
  for (int32_t e = 0; e < count; ++e) {
    Matrix m;
    m.data = values + e * each * bytes_of(s.format);
    m.format = s.format;
    m.out = out;
    m.in = in;
    m.stride = in;
    if (fp8) {
      m.scales = scales + e * scales_each;
      m.scale_rows = scale_rows;
      m.scale_stride = in / 128;
    }
    all.plain.push_back(m);
    all.maps.emplace_back();
    require(grouped_matrix(m, &all.maps.back()), "map");
  }
}

inline void make_layer(cudaStream_t stream, Layer& layer) {
  const Shape& s = layer.s;
  Matrices gate_up;
  Matrices down;
  add_matrices(stream, layer, s.experts, 2 * s.width, s.hidden, 1, gate_up);
  add_matrices(stream, layer, s.experts, s.hidden, s.width, 2, down);
  add_matrices(stream, layer, 1, 2 * s.shared_width, s.hidden, 3, gate_up);
  add_matrices(stream, layer, 1, s.hidden, s.shared_width, 4, down);
  layer.gate_up = layer.own(on_device(gate_up.maps));
  layer.down = layer.own(on_device(down.maps));
  layer.plain_gate_up = layer.own(on_device(gate_up.plain));
  layer.plain_down = layer.own(on_device(down.plain));
  layer.router = layer.own(device_array<float>(s.experts * s.hidden));
  fill(stream, layer.router, Format::kF32, s.experts * s.hidden, 6,
       2.0F / std::sqrt(static_cast<float>(s.hidden)));
  require(cudaStreamSynchronize(stream), "weights");
}

}  // namespace fathom::kernels
