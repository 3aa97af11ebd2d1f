// The weighted sum of few tokens' experts and the norm behind it in one kernel, which saves a
// kernel's wait for another and a round trip to memory.
#include "cluster.cuh"
#include "moe_few.h"
#include "moe_few_parts.cuh"
#include "number.cuh"

namespace fathom::kernels {
namespace {

constexpr int kThreadsMax = 512;
constexpr int kBlocksMax = 8;  // of a cluster

__device__ float4 zero_quad() { return make_float4(0.0F, 0.0F, 0.0F, 0.0F); }

__device__ void add_scaled(float4& total, float weight, const float4& v) {
  total.x += weight * v.x;
  total.y += weight * v.y;
  total.z += weight * v.z;
  total.w += weight * v.w;
}

__device__ float4 rounded(const float4& v) {
  return make_float4(round_number(Format::kBF16, v.x), round_number(Format::kBF16, v.y),
                     round_number(Format::kBF16, v.z), round_number(Format::kBF16, v.w));
}

__device__ uint2 packed(const float4& v) {
  return make_uint2(pack_pair(v.x, v.y), pack_pair(v.z, v.w));
}

__device__ float4 unpacked(const uint2& v) {
  return make_float4(__uint_as_float(v.x << 16), __uint_as_float(v.x & 0xFFFF0000U),
                     __uint_as_float(v.y << 16), __uint_as_float(v.y & 0xFFFF0000U));
}

struct SumShared {
  float warps[kThreadsMax / 32];
  float blocks[kBlocksMax];  // squares of each block of the cluster
  uint64_t summed;           // counts their bytes
};

// To the same place of block `rank`, whose barrier counts the bytes.
__device__ void send_float(const float* to, const uint64_t* barrier, uint32_t rank, float v) {
  asm volatile(
      "{\n.reg .b32 there, barrier;\nmapa.shared::cluster.u32 there, %0, %1;\n"
      "mapa.shared::cluster.u32 barrier, %2, %1;\n"
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.b32 [there], %3, [barrier];\n"
      "}\n" ::"r"(shared_address(to)),
      "r"(rank), "r"(shared_address(barrier)), "r"(__float_as_uint(v))
      : "memory");
}

// A cluster has a token, a thread four columns. The choices and the residual are known when it
// starts: down lets it start after its own wait for the kernels that wrote them.
struct SumNorm {
  const MoeFew& m;
  const MoeFewNorm& norm;
  const Epilogue& out;
  SumShared& sh;
  int64_t token;
  int64_t column;
  float4 gain;
  float4 residual;
  float weight;
  uint32_t chosen;

  __device__ uint2* of_residual() const {
    return reinterpret_cast<uint2*>(static_cast<__nv_bfloat16*>(norm.residual.data) +
                                    token * norm.residual.stride + column);
  }
  __device__ void load_known() {
    const int32_t k = m.router.experts_per_token;
    const auto lane = static_cast<int32_t>(threadIdx.x % 32);
    const int64_t pair = token * k + min(lane, k - 1);
    weight = __ldcg(m.weights + pair);
    chosen = __ballot_sync(0xFFFFFFFFU, lane < k && __ldcg(m.ids + pair) >= 0);
    gain = *reinterpret_cast<const float4*>(norm.weight + column);
    residual = unpacked(__ldcg(of_residual()));
  }
  // Sources: a row a pair, then a row a shared part.
  __device__ float4 source(int32_t n) const {
    const int32_t k = m.router.experts_per_token;
    const int64_t row = n < k ? token * k + n : int64_t{m.tokens} * n + token;
    return __ldcg(reinterpret_cast<const float4*>(m.rows + row * m.hidden + column));
  }
  __device__ bool wanted(int32_t n) const {
    const int32_t k = m.router.experts_per_token;
    return n < k ? (chosen >> n & 1U) != 0 : n < k + m.shared_parts;
  }
  // As moe_few_combine has it.
  __device__ float4 sum_rows() const {
    constexpr int kAtOnce = 8;
    const int32_t k = m.router.experts_per_token;
    float4 total = zero_quad();
    float4 parts = zero_quad();
    for (int32_t first = 0; first < k + m.shared_parts; first += kAtOnce) {
      float4 v[kAtOnce];
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) v[j] = wanted(first + j) ? source(first + j) : zero_quad();
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        const float w = __shfl_sync(0xFFFFFFFFU, weight, (first + j) & 31);
        if (!wanted(first + j)) continue;
        if (first + j >= k) {
          add_scaled(parts, 1.0F, v[j]);
        } else {
          add_scaled(total, w, rounded(v[j]));
        }
      }
    }
    add_scaled(total, 1.0F, rounded(parts));
    return rounded(total);
  }
  // Over the token's columns.
  __device__ float sum_of_all(float mine) const {
    mine = warp_sum(mine);
    if (threadIdx.x % 32 == 0) sh.warps[threadIdx.x / 32] = mine;
    __syncthreads();
    if (threadIdx.x < gridDim.x) {
      float block = 0.0F;
      for (unsigned w = 0; w < blockDim.x / 32; ++w) block += sh.warps[w];
      send_float(sh.blocks + cluster_rank(), &sh.summed, threadIdx.x, block);
    }
    barrier_wait(&sh.summed, 0);
    float all = 0.0F;
    for (uint32_t b = 0; b < gridDim.x; ++b) all += sh.blocks[b];
    return all;
  }
  __device__ void store(const float4& v) const {
    if (out.format != Format::kFp8) {
      *reinterpret_cast<uint2*>(static_cast<__nv_bfloat16*>(out.data) + token * out.stride +
                                column) = packed(v);
      return;
    }
    quantize_quads(packed(v), out.ue8m0,
                   static_cast<uint8_t*>(out.data) + token * out.stride + column / 128 * 128,
                   out.scales + token * out.scale_stride + column / 128);
  }
  __device__ void run() const {
    const float4 s = sum_rows();
    const float4 v = rounded(
        make_float4(residual.x + s.x, residual.y + s.y, residual.z + s.z, residual.w + s.w));
    *of_residual() = packed(v);
    const float squares = sum_of_all(v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w);
    const float scale = 1.0F / sqrtf(squares / static_cast<float>(m.hidden) + norm.epsilon);
    store(make_float4(v.x * scale * gain.x, v.y * scale * gain.y, v.z * scale * gain.z,
                      v.w * scale * gain.w));
  }
};

__global__ void __launch_bounds__(kThreadsMax)
    sum_norm_kernel(const __grid_constant__ MoeFew m, const __grid_constant__ MoeFewNorm norm,
                    const __grid_constant__ Epilogue out) {
  __shared__ SumShared sh;
  if (threadIdx.x == 0) {
    barrier_init(&sh.summed, 1);
    barrier_init_done();
    barrier_expect(&sh.summed, gridDim.x * 4);
  }
  const int64_t column = 4 * (int64_t{blockIdx.x} * blockDim.x + threadIdx.x);
  SumNorm sum{m, norm, out, sh, blockIdx.y, column, {}, {}, 0, 0};
  __syncthreads();
  cluster_arrive_relaxed();
  let_next_kernel_start();
  sum.load_known();
  cluster_wait();  // the others' barriers are ready
  wait_for_earlier_kernels();
  sum.run();
}

// As many as have whole groups of quantization each.
int32_t cluster_blocks(int32_t hidden) {
  int32_t blocks = kBlocksMax;
  while (hidden % (128 * blocks) != 0) blocks /= 2;
  return blocks;
}

}  // namespace

bool moe_few_sum_norm_fits(const MoeFew& m, const Epilogue& out) {
  return m.hidden % 128 == 0 && cluster_blocks(m.hidden) * 4 * kThreadsMax >= m.hidden &&
         (out.format == Format::kBF16 || out.format == Format::kFp8);
}

cudaError_t moe_few_sum_norm(cudaStream_t stream, const MoeFew& m, const MoeFewNorm& norm,
                             const Epilogue& out) {
  const auto blocks = static_cast<unsigned>(cluster_blocks(m.hidden));
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim = {blocks, 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(blocks, static_cast<unsigned>(m.tokens));
  config.blockDim = dim3(static_cast<unsigned>(m.hidden) / blocks / 4);
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = 2;
  return cudaLaunchKernelEx(&config, sum_norm_kernel, m, norm, out);
}

}  // namespace fathom::kernels
