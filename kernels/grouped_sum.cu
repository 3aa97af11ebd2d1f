// The weighted sum of each token's pairs, in the order of its choices, and its shared expert's row.
#include "async_copy.cuh"
#include "early_launch.cuh"
#include "grouped_gemm.h"
#include "number.cuh"

namespace fathom::kernels {
namespace {

constexpr int kThreads = 256;

struct SumArgs {
  Rows pairs;
  Rows shared;
  Rows out;
  const int32_t* ids;
  const float* weights;
  const uint8_t* token_valid;
  int32_t k;
  int32_t first_expert;
  int32_t expert_count;
  int32_t columns;
};

constexpr int kAtOnce = 8;  // pairs whose rows are asked for together

__device__ void add_row(float (&total)[8], const uint4& words, float weight) {
  const uint32_t pairs[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    total[2 * i] += weight * __uint_as_float(pairs[i] << 16);
    total[2 * i + 1] += weight * __uint_as_float(pairs[i] & 0xFFFF0000U);
  }
}

__device__ uint4 read(const void* row) { return __ldcs(static_cast<const uint4*>(row)); }

// A thread has eight columns of one token.
__global__ void __launch_bounds__(kThreads) sum_kernel(SumArgs a) {
  const int64_t t = blockIdx.x;
  const auto column = static_cast<int32_t>((blockIdx.y * kThreads + threadIdx.x) * 8);
  let_next_kernel_start();
  wait_for_earlier_kernels();
  if (column >= a.columns) return;
  float total[8] = {};
  const auto* values = static_cast<const __nv_bfloat16*>(a.pairs.data) + column;
  const bool valid = a.token_valid[t] != 0;
  uint4 shared = {};
  if (a.shared.data != nullptr)
    shared = read(static_cast<const __nv_bfloat16*>(a.shared.data) + t * a.shared.stride + column);
  for (int32_t first = 0; valid && first < a.k; first += kAtOnce) {
    uint4 rows[kAtOnce];
    float weights[kAtOnce];
    bool here[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int64_t pair = t * a.k + min(first + i, a.k - 1);
      const int32_t e = a.ids[pair] - a.first_expert;
      here[i] = first + i < a.k && e >= 0 && e < a.expert_count;
      weights[i] = a.weights[pair];
      rows[i] = here[i] ? read(values + pair * a.pairs.stride) : make_uint4(0, 0, 0, 0);
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i)
      if (here[i]) add_row(total, rows[i], weights[i]);
  }
  if (a.shared.data != nullptr) add_row(total, shared, 1.0F);
  *reinterpret_cast<uint4*>(static_cast<__nv_bfloat16*>(a.out.data) + t * a.out.stride + column) =
      make_uint4(pack_pair(total[0], total[1]), pack_pair(total[2], total[3]),
                 pack_pair(total[4], total[5]), pack_pair(total[6], total[7]));
}

}  // namespace

cudaError_t grouped_combine(cudaStream_t stream, const GroupedRouting& r, const Rows& pairs,
                            const Rows& shared, const Rows& out) {
  const SumArgs a{pairs,
                  shared,
                  out,
                  r.ids,
                  r.weights,
                  r.token_valid,
                  r.shape.experts_per_token,
                  r.first_expert,
                  r.expert_count,
                  static_cast<int32_t>(r.columns)};
  const auto across = static_cast<unsigned>((r.columns / 8 + kThreads - 1) / kThreads);
  return launch_early(stream, sum_kernel, dim3(static_cast<unsigned>(r.tokens), across),
                      dim3(kThreads), a);
}

}  // namespace fathom::kernels
