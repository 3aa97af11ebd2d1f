// The norm ahead of the experts and the router of a few tokens in one kernel, which saves a
// kernel's wait for another and a round trip to memory. All sums have the order of the two kernels
// that it stands for (rows.cu, moe_few_route.cu).
#include "early_launch.cuh"
#include "moe_few.h"
#include "moe_few_parts.cuh"
#include "number.cuh"

namespace fathom::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kVector = kMoeNormColumnsMax / kThreads;  // columns of a thread in the norm
constexpr int kQuads = kVector / 4;                     // fours of columns in the router
static_assert(kVector == 8, "16 bytes");

template <int kTokens>
struct NormRouteShared {
  uint4 x[kTokens][kThreads];  // bf16, normed
  float sums[2][kWarps][kTokens];
};

__device__ float dot(const float4& w, const uint2& x, float total) {
  total = fmaf(w.x, __uint_as_float(x.x << 16), total);
  total = fmaf(w.y, __uint_as_float(x.x & 0xFFFF0000U), total);
  total = fmaf(w.z, __uint_as_float(x.y << 16), total);
  return fmaf(w.w, __uint_as_float(x.y & 0xFFFF0000U), total);
}

// A block an expert: each of them norms the tokens' rows, which is less than waiting for another
// kernel that does it once. What is normed is stored by the block whose number a group of 128
// columns has.
template <int kTokens>
struct NormRoute {
  const MoeFew& m;
  NormRouteShared<kTokens>& sh;
  float4 gate[kQuads];
  float gain[kVector];

  __device__ static int32_t vector_column() { return kVector * static_cast<int32_t>(threadIdx.x); }
  __device__ static int32_t quad_column(int i) {
    return 4 * (i * kThreads + static_cast<int32_t>(threadIdx.x));
  }
  __device__ void load_weights() {
    const float* row = m.gate + int64_t{blockIdx.x} * m.hidden;
    const auto load = [&](const float* from, int32_t at) {
      return at < m.hidden ? *reinterpret_cast<const float4*>(from + at)
                           : make_float4(0.0F, 0.0F, 0.0F, 0.0F);
    };
#pragma unroll
    for (int i = 0; i < kQuads; ++i) {
      gate[i] = load(row, quad_column(i));
      const float4 four = load(m.norm.weight, vector_column() + 4 * i);
      gain[4 * i] = four.x;
      gain[4 * i + 1] = four.y;
      gain[4 * i + 2] = four.z;
      gain[4 * i + 3] = four.w;
    }
  }
  __device__ uint4 load(const Rows& rows, int n) const {
    if (n >= m.tokens || vector_column() >= m.hidden) return make_uint4(0, 0, 0, 0);
    const auto* row = static_cast<const __nv_bfloat16*>(rows.data) + n * rows.stride;
    return __ldcg(reinterpret_cast<const uint4*>(row + vector_column()));
  }
  // The residual's sum, rounded to bf16.
  __device__ static void add(const uint4& a, const uint4& b, float (&v)[kVector]) {
    const uint32_t left[4] = {a.x, a.y, a.z, a.w};
    const uint32_t right[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      v[2 * i] = round_number(Format::kBF16,
                              __uint_as_float(left[i] << 16) + __uint_as_float(right[i] << 16));
      v[2 * i + 1] = round_number(Format::kBF16, __uint_as_float(left[i] & 0xFFFF0000U) +
                                                     __uint_as_float(right[i] & 0xFFFF0000U));
    }
  }
  // Of each token over the block, known to all threads.
  __device__ void sum(float (&mine)[kTokens], int set) const {
#pragma unroll
    for (int n = 0; n < kTokens; ++n) {
      mine[n] = warp_sum(mine[n]);
      if (threadIdx.x % 32 == 0) sh.sums[set][threadIdx.x / 32][n] = mine[n];
    }
    __syncthreads();
#pragma unroll
    for (int n = 0; n < kTokens; ++n) {
      mine[n] = 0.0F;
#pragma unroll
      for (int warp = 0; warp < kWarps; ++warp) mine[n] += sh.sums[set][warp][n];
    }
  }
  // To sh.x.
  __device__ void norm() const {
    uint4 parts[kTokens][2];  // on their way together
#pragma unroll
    for (int n = 0; n < kTokens; ++n) {
      parts[n][0] = load(m.norm.residual, n);
      parts[n][1] = load(m.norm.part, n);
    }
    float v[kTokens][kVector];
    float squares[kTokens];
#pragma unroll
    for (int n = 0; n < kTokens; ++n) {
      add(parts[n][0], parts[n][1], v[n]);
      squares[n] = 0.0F;
#pragma unroll
      for (const float a : v[n]) squares[n] += a * a;
    }
    sum(squares, 0);
#pragma unroll
    for (int n = 0; n < kTokens; ++n) {
      const float scale = 1.0F / sqrtf(squares[n] / static_cast<float>(m.hidden) + m.norm.epsilon);
      uint32_t words[4];
#pragma unroll
      for (int i = 0; i < 4; ++i)
        words[i] =
            pack_pair(v[n][2 * i] * scale * gain[2 * i], v[n][2 * i + 1] * scale * gain[2 * i + 1]);
      sh.x[n][threadIdx.x] = make_uint4(words[0], words[1], words[2], words[3]);
    }
    __syncthreads();
  }
  __device__ void score() const {
    float total[kTokens];
#pragma unroll
    for (int n = 0; n < kTokens; ++n) {
      total[n] = 0.0F;
#pragma unroll
      for (int i = 0; i < kQuads; ++i)
        if (quad_column(i) < m.hidden) total[n] = dot(gate[i], quad(n, i), total[n]);
    }
    sum(total, 1);
#pragma unroll
    for (int n = 0; n < kTokens; ++n) {
      if (threadIdx.x > 0 || n >= m.tokens) break;
      const int32_t at = n * m.router.experts + static_cast<int32_t>(blockIdx.x);
      if (m.posts != nullptr) post_score(m.posts + at, total[n]);
      m.scores[at] = total[n];
    }
  }
  __device__ const uint2& quad(int n, int i) const {
    return reinterpret_cast<const uint2*>(sh.x[n])[quad_column(i) / 4];
  }
  // A warp has a group.
  __device__ void store() const {
#pragma unroll
    for (int i = 0; i < kQuads; ++i) {
      const int32_t column = quad_column(i);
      const int32_t group = column / 128;
      const auto blocks = static_cast<int32_t>(gridDim.x);
      if (column >= m.hidden || group % blocks != static_cast<int32_t>(blockIdx.x)) continue;
      for (int32_t n = 0; n < m.tokens; ++n) {
        if (m.format == Format::kFp8) {
          quantize_quads(quad(n, i), m.ue8m0, m.codes + int64_t{n} * m.hidden + 128 * group,
                         m.code_scales + n * (m.hidden / 128) + group);
        } else {
          auto* row = static_cast<__nv_bfloat16*>(m.x.data) + n * m.x.stride;
          *reinterpret_cast<uint2*>(row + column) = quad(n, i);
        }
      }
    }
  }
};

template <int kTokens>
__global__ void __launch_bounds__(kThreads) norm_route_kernel(const __grid_constant__ MoeFew m) {
  __shared__ NormRouteShared<kTokens> sh;
  let_next_kernel_start();
  NormRoute<kTokens> route{m, sh, {}, {}};
  route.load_weights();
  wait_for_earlier_kernels();
  route.norm();
  route.score();
  route.store();
}

}  // namespace

cudaError_t moe_few_norm_route(cudaStream_t stream, const MoeFew& m) {
  if (m.hidden > kMoeNormColumnsMax || m.tokens > kMoeNormTokensMax) return cudaErrorInvalidValue;
  const dim3 grid(static_cast<unsigned>(m.router.experts));
  return launch_early(stream, m.tokens == 1 ? norm_route_kernel<1> : norm_route_kernel<4>, grid,
                      dim3(kThreads), m);
}

}  // namespace fathom::kernels
