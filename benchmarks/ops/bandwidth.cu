// Streams of 16-byte loads, several in flight a thread, blocks a few to a multiprocessor.
#include "bandwidth.h"

namespace fathom::bench {
namespace {

constexpr int kThreads = 512;
constexpr int kBlocks = 132 * 4;
constexpr int kInFlight = 8;

__device__ uint32_t scramble(uint32_t x) {
  x = (x ^ (x >> 16)) * 0x7FEB352DU;
  x = (x ^ (x >> 15)) * 0x846CA68BU;
  return x ^ (x >> 16);
}

__global__ void fill_kernel(uint4* to, int64_t count, uint32_t seed) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += step) {
    const uint32_t x = scramble(static_cast<uint32_t>(i) + seed);
    to[i] = make_uint4(x, scramble(x + 1), scramble(x + 2), scramble(x + 3));
  }
}

template <typename Use>
__device__ void stream_in(const uint4* from, int64_t count, Use use) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  for (; i + (kInFlight - 1) * step < count; i += kInFlight * step) {
    uint4 values[kInFlight];
#pragma unroll
    for (int j = 0; j < kInFlight; ++j) values[j] = __ldcs(from + i + j * step);
#pragma unroll
    for (int j = 0; j < kInFlight; ++j) use(i + j * step, values[j]);
  }
  for (; i < count; i += step) use(i, __ldcs(from + i));
}

__global__ void read_kernel(const uint4* from, int64_t count, uint32_t* sink) {
  uint32_t all = 0;
  stream_in(from, count, [&](int64_t, const uint4& v) { all ^= v.x ^ v.y ^ v.z ^ v.w; });
  if (all == 0x12345678U) *sink = all;
}

__global__ void copy_kernel(const uint4* from, int64_t count, uint4* to) {
  stream_in(from, count, [&](int64_t i, const uint4& v) { __stcs(to + i, v); });
}

}  // namespace

void fill_random(cudaStream_t stream, void* to, int64_t bytes, uint32_t seed) {
  fill_kernel<<<kBlocks, kThreads, 0, stream>>>(static_cast<uint4*>(to), bytes / 16, seed);
}

void read_all(cudaStream_t stream, const void* from, int64_t bytes, uint32_t* sink) {
  read_kernel<<<kBlocks, kThreads, 0, stream>>>(static_cast<const uint4*>(from), bytes / 16, sink);
}

void copy_all(cudaStream_t stream, const void* from, void* to, int64_t bytes) {
  copy_kernel<<<kBlocks, kThreads, 0, stream>>>(static_cast<const uint4*>(from), bytes / 16,
                                                static_cast<uint4*>(to));
}

}  // namespace fathom::bench
