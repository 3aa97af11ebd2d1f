// The router of few tokens: scores over all SMs, and the input's quantization beside them; the last
// block of each eight tokens chooses their experts.
#include "early_launch.cuh"
#include "moe_few.h"
#include "moe_few_choose.cuh"
#include "moe_few_parts.cuh"
#include "number.cuh"

namespace fathom::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
static_assert(kMoeRouteTokens == kWarps);

struct RouteShared {
  float parts[kWarps][kMoeRouteTokens];
  float choices[kWarps][kMoeExpertsMax];
  int32_t is_last;
};

__device__ float dot(const float4& w, const uint2& x, float total) {
  total = fmaf(w.x, __uint_as_float(x.x << 16), total);
  total = fmaf(w.y, __uint_as_float(x.x & 0xFFFF0000U), total);
  total = fmaf(w.z, __uint_as_float(x.y << 16), total);
  return fmaf(w.w, __uint_as_float(x.y & 0xFFFF0000U), total);
}

__device__ const uint2* quad(const MoeFew& m, int64_t token, int32_t column) {
  return reinterpret_cast<const uint2*>(static_cast<const __nv_bfloat16*>(m.x.data) +
                                        token * m.x.stride + column);
}

// Of one expert, for eight tokens. Its weights are asked for before earlier kernels end.
template <int kLoads>
__device__ void score_tokens(const MoeFew& m, int32_t first, int32_t count, RouteShared& sh) {
  constexpr int kPassColumns = kLoads * 4 * kThreads;
  const auto thread = static_cast<int32_t>(threadIdx.x);
  const auto expert = static_cast<int32_t>(blockIdx.x);
  const float* row = m.gate + int64_t{expert} * m.hidden;
  float4 w[kLoads];
  const auto load = [&](int32_t base) {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int32_t column = base + 4 * (i * kThreads + thread);
      w[i] = column < m.hidden ? *reinterpret_cast<const float4*>(row + column)
                               : make_float4(0.0F, 0.0F, 0.0F, 0.0F);
    }
  };
  load(0);
  wait_for_earlier_kernels();
  float total[kMoeRouteTokens] = {};
  for (int32_t base = 0; base < m.hidden; base += kPassColumns) {
    if (base > 0) load(base);
#pragma unroll
    for (int n = 0; n < kMoeRouteTokens; ++n) {
      if (n >= count) break;
#pragma unroll
      for (int i = 0; i < kLoads; ++i) {
        const int32_t column = base + 4 * (i * kThreads + thread);
        if (column < m.hidden) total[n] = dot(w[i], *quad(m, first + n, column), total[n]);
      }
    }
  }
#pragma unroll
  for (int n = 0; n < kMoeRouteTokens; ++n) {
    if (n >= count) break;
    total[n] = warp_sum(total[n]);
    if (thread % 32 == 0) sh.parts[thread / 32][n] = total[n];
  }
  __syncthreads();
  if (thread >= count) return;
  float sum = 0.0F;
  for (int warp = 0; warp < kWarps; ++warp) sum += sh.parts[warp][thread];
  const int64_t at = int64_t{first + thread} * m.router.experts + expert;
  if (m.posts != nullptr) post_score(m.posts + at, sum);
  m.scores[at] = sum;
}

// This block's share of the groups of the eight tokens' x; by all warps but the first.
__device__ void quantize_tokens(const MoeFew& m, int32_t first, int32_t count) {
  const int32_t groups = m.hidden / 128;
  const auto lane = static_cast<int32_t>(threadIdx.x % 32);
  const auto begin = static_cast<int32_t>(blockIdx.x * (kWarps - 1) + threadIdx.x / 32) - 1;
  const auto step = static_cast<int32_t>(gridDim.x * (kWarps - 1));
  for (int32_t job = begin; job < count * groups; job += step) {
    const int64_t token = first + job / groups;
    const int32_t group = job % groups;
    quantize_quads(*quad(m, token, 128 * group + 4 * lane), m.ue8m0,
                   m.codes + token * m.hidden + 128 * group,
                   m.code_scales + token * groups + group);
  }
}

// Counts a block in, with all that it has written; true in the last of `blocks`, which leaves zero
// behind. By one thread, after a barrier of the block.
__device__ bool count_in(int32_t* arrivals, uint32_t blocks) {
  __threadfence();
  const bool last = atomicAdd(arrivals, 1) == static_cast<int32_t>(blocks) - 1;
  if (last) *arrivals = 0;
  __threadfence();
  return last;
}

template <int kLoads>
__global__ void __launch_bounds__(kThreads) route_kernel(const __grid_constant__ MoeFew m) {
  __shared__ RouteShared sh;
  let_next_kernel_start();
  const auto first = static_cast<int32_t>(blockIdx.y) * kMoeRouteTokens;
  const int32_t count = min(kMoeRouteTokens, m.tokens - first);
  score_tokens<kLoads>(m, first, count, sh);
  __syncthreads();
  const bool chooses = !moe_choose_everywhere(m.tokens);
  if (threadIdx.x >= 32) {
    if (m.format == Format::kFp8) quantize_tokens(m, first, count);
  } else if (threadIdx.x == 0 && chooses) {
    sh.is_last = count_in(m.arrivals + blockIdx.y, gridDim.x) ? 1 : 0;
  }
  if (!chooses) return;
  __syncthreads();
  if (sh.is_last == 0) return;
  const int warp = static_cast<int>(threadIdx.x / 32);
  const int lane = static_cast<int>(threadIdx.x % 32);
  if (warp >= count) return;
  const int64_t token = first + warp;
  const int32_t k = m.router.experts_per_token;
  const Chosen mine =
      choose_experts(m.router, m.scores + token * m.router.experts, nullptr, m.bias,
                                     sh.choices[warp]);
  if (lane >= k) return;
  const int32_t e = mine.expert - m.first_expert;
  const bool here = m.token_valid[token] != 0 && e >= 0 && e < m.experts_here;
  m.ids[token * k + mine.place] = here ? e : -1;
  m.weights[token * k + mine.place] = mine.weight;
}

}  // namespace

cudaError_t moe_few_route(cudaStream_t stream, const MoeFew& m) {
  const dim3 grid(static_cast<unsigned>(m.router.experts),
                  static_cast<unsigned>((m.tokens + kMoeRouteTokens - 1) / kMoeRouteTokens));
  return launch_early(stream, m.hidden <= 8 * kThreads ? route_kernel<2> : route_kernel<7>, grid,
                      dim3(kThreads), m);
}

}  // namespace fathom::kernels
