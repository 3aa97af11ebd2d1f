// A hash of the element's index, scaled.
#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include "random_fill.h"

namespace fathom::bench {
namespace {

constexpr int kThreads = 512;
constexpr int kBlocks = 132 * 8;

__device__ uint32_t scramble(uint32_t x) {
  x = (x ^ (x >> 16)) * 0x7FEB352DU;
  x = (x ^ (x >> 15)) * 0x846CA68BU;
  return x ^ (x >> 16);
}

__device__ void store(float* to, float x) { *to = x; }
__device__ void store(__nv_bfloat16* to, float x) { *to = __float2bfloat16_rn(x); }
__device__ void store(__nv_fp8_e4m3* to, float x) { *to = __nv_fp8_e4m3(x); }

template <typename T>
__global__ void fill_kernel(T* to, int64_t count, float center, float spread, uint32_t seed) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += step) {
    const auto low = static_cast<uint32_t>(i);
    const auto high = static_cast<uint32_t>(i >> 32);
    const uint32_t bits = scramble(low * 2654435761U + high + seed);
    const float unit = static_cast<float>(static_cast<int32_t>(bits)) * 0x1p-31F;
    store(to + i, center + spread * unit);
  }
}

__global__ void hold_kernel(uint64_t ns) {
  uint64_t begin = 0;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(begin));
  for (uint64_t now = begin; now - begin < ns;) {
    __nanosleep(1000);
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
  }
}

template <typename T>
void fill(cudaStream_t stream, const Tensor& to, float center, float spread, uint32_t seed) {
  fill_kernel<<<kBlocks, kThreads, 0, stream>>>(to.as<T>(), to.elements(), center, spread, seed);
}

}  // namespace

void fill_uniform(cudaStream_t stream, const Tensor& to, float center, float spread,
                  uint32_t seed) {
  switch (to.dtype) {
    case DType::kF32: return fill<float>(stream, to, center, spread, seed);
    case DType::kBF16: return fill<__nv_bfloat16>(stream, to, center, spread, seed);
    case DType::kF8E4M3: return fill<__nv_fp8_e4m3>(stream, to, center, spread, seed);
    default: FATHOM_CHECK(false, "random numbers are f32, bf16 or e4m3");
  }
}

void hold(cudaStream_t stream, int64_t us) {
  hold_kernel<<<1, 1, 0, stream>>>(static_cast<uint64_t>(us) * 1000);
}

}  // namespace fathom::bench
