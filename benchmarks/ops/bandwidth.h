// Kernels that only move memory: what a GPU's memory gives at best.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace fathom::bench {

// `bytes` is a multiple of 16.
void fill_random(cudaStream_t stream, void* to, int64_t bytes, uint32_t seed);
// Reads every byte once; writes one word to `sink` if their exclusive or is a number that it is
// not.
void read_all(cudaStream_t stream, const void* from, int64_t bytes, uint32_t* sink);
void copy_all(cudaStream_t stream, const void* from, void* to, int64_t bytes);

}  // namespace fathom::bench
