// The router of few tokens: the norm ahead of it, scores over all SMs, and the input's quantization
// beside them; the last block of each eight tokens chooses their experts. A block norms all of its
// tokens' rows: that is less than waiting for another kernel that does it once.
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
  float squares[kWarps][kMoeRouteTokens];
  float scales[kMoeRouteTokens];
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

// Four columns of a token's residual with what is to be added to it, rounded to bf16.
__device__ float4 summed_quad(const MoeFewNorm& norm, int64_t token, int32_t column) {
  const auto load = [&](const Rows& rows) {
    return *reinterpret_cast<const uint2*>(static_cast<const __nv_bfloat16*>(rows.data) +
                                           token * rows.stride + column);
  };
  const uint2 a = load(norm.residual);
  const uint2 b = load(norm.part);
  const auto low = [](uint32_t x, uint32_t y) {
    return round_number(Format::kBF16, __uint_as_float(x << 16) + __uint_as_float(y << 16));
  };
  const auto high = [](uint32_t x, uint32_t y) {
    return round_number(Format::kBF16,
                        __uint_as_float(x & 0xFFFF0000U) + __uint_as_float(y & 0xFFFF0000U));
  };
  return make_float4(low(a.x, b.x), high(a.x, b.x), low(a.y, b.y), high(a.y, b.y));
}

__device__ uint2 normed_quad(const float4& v, float scale, const float4& weight) {
  return make_uint2(pack_pair(v.x * scale * weight.x, v.y * scale * weight.y),
                    pack_pair(v.z * scale * weight.z, v.w * scale * weight.w));
}

__device__ float4 zero_quad() { return make_float4(0.0F, 0.0F, 0.0F, 0.0F); }

// A row of weights, a thread's columns of it.
template <int kLoads>
struct RowPart {
  float4 quads[kLoads];

  __device__ static int32_t column(int32_t base, int i) {
    return base + 4 * (i * kThreads + static_cast<int32_t>(threadIdx.x));
  }
  __device__ void load(const float* row, int32_t base, int32_t end) {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int32_t at = column(base, i);
      quads[i] = at < end ? *reinterpret_cast<const float4*>(row + at) : zero_quad();
    }
  }
};

// Sums over the block of a value a token, told to threads n < count.
__device__ float sum_of_block(float (&mine)[kMoeRouteTokens], int32_t count,
                              float (&parts)[kWarps][kMoeRouteTokens], int32_t token) {
  const auto thread = static_cast<int32_t>(threadIdx.x);
#pragma unroll
  for (int n = 0; n < kMoeRouteTokens; ++n) {
    if (n >= count) break;
    mine[n] = warp_sum(mine[n]);
    if (thread % 32 == 0) parts[thread / 32][n] = mine[n];
  }
  __syncthreads();
  float sum = 0.0F;
  if (token >= count) return sum;
  for (int warp = 0; warp < kWarps; ++warp) sum += parts[warp][token];
  return sum;
}

// sh.scales: of the tokens' norms. After the wait for earlier kernels.
template <int kLoads>
__device__ void measure_rows(const MoeFew& m, int32_t first, int32_t count, RouteShared& sh) {
  float squares[kMoeRouteTokens] = {};
#pragma unroll 2
  for (int i = 0; i < kLoads; ++i) {
    const int32_t column = RowPart<kLoads>::column(0, i);
    float4 v[kMoeRouteTokens];  // on their way together
#pragma unroll
    for (int n = 0; n < kMoeRouteTokens; ++n)
      v[n] = n < count && column < m.hidden ? summed_quad(m.norm, first + n, column) : zero_quad();
#pragma unroll
    for (int n = 0; n < kMoeRouteTokens; ++n)
      squares[n] += v[n].x * v[n].x + v[n].y * v[n].y + v[n].z * v[n].z + v[n].w * v[n].w;
  }
  const auto thread = static_cast<int32_t>(threadIdx.x);
  const float sum = sum_of_block(squares, count, sh.squares, thread);
  if (thread < count)
    sh.scales[thread] = 1.0F / sqrtf(sum / static_cast<float>(m.hidden) + m.norm.epsilon);
  __syncthreads();
}

// Of one expert, for eight tokens. Its weights are asked for before earlier kernels end. Rows that
// are to be normed are one pass.
template <int kLoads, bool kNorms>
__device__ void score_tokens(const MoeFew& m, int32_t first, int32_t count, RouteShared& sh) {
  constexpr int kPassColumns = kLoads * 4 * kThreads;
  const auto thread = static_cast<int32_t>(threadIdx.x);
  const auto expert = static_cast<int32_t>(blockIdx.x);
  const float* row = m.gate + int64_t{expert} * m.hidden;
  RowPart<kLoads> w;
  RowPart<kNorms ? kLoads : 1> gain;
  w.load(row, 0, m.hidden);
  if constexpr (kNorms) gain.load(m.norm.weight, 0, m.hidden);
  wait_for_earlier_kernels();
  if constexpr (kNorms) measure_rows<kLoads>(m, first, count, sh);
  float total[kMoeRouteTokens] = {};
  for (int32_t base = 0; base < m.hidden; base += kPassColumns) {
    if (base > 0) w.load(row, base, m.hidden);
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      const int32_t column = RowPart<kLoads>::column(base, i);
      uint2 x[kMoeRouteTokens];  // on their way together
#pragma unroll
      for (int n = 0; n < kMoeRouteTokens; ++n) {
        x[n] = make_uint2(0, 0);
        if (n >= count || column >= m.hidden) continue;
        if constexpr (kNorms) {
          x[n] = normed_quad(summed_quad(m.norm, first + n, column), sh.scales[n], gain.quads[i]);
        } else {
          x[n] = *quad(m, first + n, column);
        }
      }
#pragma unroll
      for (int n = 0; n < kMoeRouteTokens; ++n) total[n] = dot(w.quads[i], x[n], total[n]);
    }
  }
  const float sum = sum_of_block(total, count, sh.parts, thread);
  if (thread >= count) return;
  m.scores[int64_t{first + thread} * m.router.experts + expert] = sum;
}

// 128 columns by one warp. quads: four columns a lane, bf16.
__device__ void quantize_quads(const uint2& quads, bool ue8m0, uint8_t* codes, float* scale) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const float v[4] = {__uint_as_float(quads.x << 16), __uint_as_float(quads.x & 0xFFFF0000U),
                      __uint_as_float(quads.y << 16), __uint_as_float(quads.y & 0xFFFF0000U)};
  float largest = 1e-4F;
#pragma unroll
  for (const float one : v) largest = fmaxf(largest, fabsf(one));
  const float s = group_scale(warp_max(largest), ue8m0);
  uint32_t word = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint32_t code = __nv_cvt_float_to_fp8(v[i] / s, __NV_SATFINITE, __NV_E4M3);
    word |= code << (8 * i);
  }
  reinterpret_cast<uint32_t*>(codes)[lane] = word;
  if (lane == 0) *scale = s;
}

// This block's share of the groups of the eight tokens' x, normed and quantized as it is wanted; by
// all warps but the first, `begin` being a warp's first.
template <bool kNorms>
__device__ void quantize_tokens(const MoeFew& m, int32_t first, int32_t count, int32_t begin,
                                float4 gain, const RouteShared& sh) {
  const int32_t groups = m.hidden / 128;
  const auto lane = static_cast<int32_t>(threadIdx.x % 32);
  const auto step = static_cast<int32_t>(gridDim.x * (kWarps - 1));
  for (int32_t job = begin; job < count * groups; job += step) {
    const int64_t token = first + job / groups;
    const int32_t group = job % groups;
    const int32_t column = 128 * group + 4 * lane;
    uint2 x;
    if constexpr (kNorms) {
      if (job != begin) gain = *reinterpret_cast<const float4*>(m.norm.weight + column);
      x = normed_quad(summed_quad(m.norm, token, column), sh.scales[job / groups], gain);
    } else {
      x = *quad(m, token, column);
    }
    if (m.format == Format::kFp8) {
      quantize_quads(x, m.ue8m0, m.codes + token * m.hidden + 128 * group,
                     m.code_scales + token * groups + group);
    } else {
      *reinterpret_cast<uint2*>(static_cast<__nv_bfloat16*>(m.x.data) + token * m.x.stride +
                                column) = x;
    }
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

template <int kLoads, bool kNorms>
__global__ void __launch_bounds__(kThreads) route_kernel(const __grid_constant__ MoeFew m) {
  __shared__ RouteShared sh;
  let_next_kernel_start();
  const auto first = static_cast<int32_t>(blockIdx.y) * kMoeRouteTokens;
  const int32_t count = min(kMoeRouteTokens, m.tokens - first);
  const auto group = static_cast<int32_t>(blockIdx.x * (kWarps - 1) + threadIdx.x / 32) - 1;
  float4 gain = zero_quad();
  if (kNorms && group >= 0)
    gain = *reinterpret_cast<const float4*>(m.norm.weight + 128 * (group % (m.hidden / 128)) +
                                            threadIdx.x % 32 * 4);
  score_tokens<kLoads, kNorms>(m, first, count, sh);
  __syncthreads();
  const bool chooses = !moe_choose_everywhere(m.tokens);
  if (threadIdx.x >= 32) {
    if (kNorms || m.format == Format::kFp8)
      quantize_tokens<kNorms>(m, first, count, group, gain, sh);
  } else if (threadIdx.x == 0 && chooses) {
    sh.is_last = count_in(m.arrivals + blockIdx.y, gridDim.x) ? 1 : 0;
  }
  if (!chooses) return;
  __syncthreads();
  if (sh.is_last == 0) return;
  const int warp = static_cast<int>(threadIdx.x / 32);
  if (warp >= count) return;
  const int64_t token = first + warp;
  const int32_t k = m.router.experts_per_token;
  const bool valid = m.token_valid[token] != 0;
  choose_experts(m.router, m.scores + token * m.router.experts, m.bias, sh.choices[warp],
                 [&](const Chosen& mine) {
                   const int32_t e = mine.expert - m.first_expert;
                   const bool here = valid && e >= 0 && e < m.experts_here;
                   m.ids[token * k + mine.place] = here ? e : -1;
                   m.weights[token * k + mine.place] = mine.weight;
                 });
}

}  // namespace

cudaError_t moe_few_route(cudaStream_t stream, const MoeFew& m) {
  const dim3 grid(static_cast<unsigned>(m.router.experts),
                  static_cast<unsigned>((m.tokens + kMoeRouteTokens - 1) / kMoeRouteTokens));
  const bool narrow = m.hidden <= 8 * kThreads;
  if (m.norm.weight == nullptr) {
    return launch_early(stream, narrow ? route_kernel<2, false> : route_kernel<7, false>, grid,
                        dim3(kThreads), m);
  }
  static_assert(kMoeNormColumnsMax == 2 * 4 * kThreads);
  if (!narrow) return cudaErrorInvalidValue;
  return launch_early(stream, route_kernel<2, true>, grid, dim3(kThreads), m);
}

}  // namespace fathom::kernels
