// A block takes 16 tokens of one head and a part of its 128 value columns; blocks of the same head
// are a cluster: each brings its share of the latents' columns (folding what was cut) to all of
// them, so that no partial result is read twice. Weights are in registers before latents are there.
// See docs/kernels/mla_decode.md.
#include "mla_output.h"

#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include <algorithm>

#include "async_copy.cuh"
#include "cluster_copy.cuh"
#include "mla_decode_common.cuh"
#include "mla_entry.h"
#include "mla_head_products.cuh"
#include "number.cuh"

namespace fathom::kernels {
namespace {

constexpr int kTokens = 16;
constexpr int kSplits = 4;    // of the latent's columns, a warp each; their sums add in order
constexpr int kPitch = 544;   // of a token's latent in shared memory: no bank is met twice
constexpr int kInFlight = 8;  // partial results that a thread asks for at once
constexpr unsigned kMultiprocessors = 132;
constexpr int kFewTokens = 4;  // whose partial results a block fetches together

// Few columns: so few threads and so little memory that the block finds room beside one of the
// attention's.
template <int kColumns>
constexpr int kThreads = kColumns * 8 < 512 ? kColumns * 8 : 512;

struct Args {
  MlaOutputCall call;
  int32_t tiles = 0;
  int32_t tile_pairs = 0;
};

enum class TokenState : int32_t { kSkip, kZero, kWhole, kCut };

// What a block knows of a token.
struct TokenPlan {
  TokenState state;
  int32_t slots;
  int64_t at;      // of the first partial result, in (token, head) pairs
  int64_t stride;  // to the next
};

template <int kColumns>
struct OutputShared {
  static constexpr int kCluster = kMlaValue / kColumns;

  alignas(16) uint16_t latents[kTokens][kPitch];
  alignas(16) float sums[kSplits][kTokens][kColumns];
  float largest[kCluster][kTokens];
  TokenPlan tokens[kTokens];
  uint64_t brought;   // counts the bytes of latents
  uint64_t measured;  // of largest values
};

// Of one token, some of its partial results: 16 threads a result, in columns of four.
struct FoldShared {
  static constexpr int kSlots = 48;
  static constexpr int kQuads = 16;

  float4 sums[kSlots][kQuads];
  float2 weights[kSlots];
};

__device__ TokenPlan plan_token(const Args& a, int64_t t, int32_t head) {
  const MlaOutputCall& c = a.call;
  TokenPlan plan{TokenState::kSkip, 0, 0, 0};
  if (t >= c.tokens) return plan;
  const int32_t row = c.token_row[t];
  if (row < 0 || row >= c.end_row) return plan;
  plan.state = TokenState::kZero;
  if (c.token_valid[t] == 0) return plan;
  const MlaCut cut = c.schedule.cuts[row];
  plan.state = cut.slots > 1 ? TokenState::kCut : TokenState::kWhole;
  const auto pair = static_cast<int32_t>(t - c.rows.first[row]) * c.heads + head;
  plan.slots = cut.slots;
  plan.stride = int64_t{a.tiles} * a.tile_pairs;
  plan.at = cut.first_slot * plan.stride + pair;
  return plan;
}

// Four columns of a token's latent that was cut, summed in the order of its stretches. Powers of
// two make bringing stretches together exact: only the order of additions counts.
struct Folded {
  float peak = -INFINITY;
  float total = 0.0F;
  float4 sum{0.0F, 0.0F, 0.0F, 0.0F};

  // To a peak that is not below `most`.
  __device__ void move(float most) {
    most = fmaxf(peak, most);
    const float fade = power_of_two(peak - most);
    peak = most;
    total *= fade;
    sum = float4{sum.x * fade, sum.y * fade, sum.z * fade, sum.w * fade};
  }
  __device__ void add(const float4& x, const float2& weight) {
    const float f = power_of_two(weight.x - peak);
    total = fmaf(weight.y, f, total);
    sum.x = fmaf(x.x, f, sum.x);
    sum.y = fmaf(x.y, f, sum.y);
    sum.z = fmaf(x.z, f, sum.z);
    sum.w = fmaf(x.w, f, sum.w);
  }
  __device__ uint2 result() const {
    const float inverse = total > 0.0F ? 1.0F / total : 0.0F;
    return uint2{pack_bf16(sum.x * inverse, sum.y * inverse),
                 pack_bf16(sum.z * inverse, sum.w * inverse)};
  }
};

__device__ float4 partial_sums(const MlaOutputCall& c, const TokenPlan& plan, int32_t slot,
                               int column) {
  const int64_t at = plan.at + slot * plan.stride;
  return __ldcg(reinterpret_cast<const float4*>(c.partial + at * kMlaLatent + column));
}

__device__ float2 partial_weight(const MlaOutputCall& c, const TokenPlan& plan, int32_t slot) {
  return __ldcg(reinterpret_cast<const float2*>(c.partial_weights) + plan.at + slot * plan.stride);
}

__device__ uint2 folded(const MlaOutputCall& c, const TokenPlan& plan, int column) {
  Folded all;
  for (int32_t first = 0; first < plan.slots; first += kInFlight) {
    float4 x[kInFlight];
    float2 weight[kInFlight];
    float most = -INFINITY;
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      const bool here = first + i < plan.slots;
      x[i] = here ? partial_sums(c, plan, first + i, column) : float4{0.0F, 0.0F, 0.0F, 0.0F};
      weight[i] = here ? partial_weight(c, plan, first + i) : float2{-INFINITY, 0.0F};
    }
#pragma unroll
    for (const float2& w : weight) most = fmaxf(most, w.x);
    all.move(most);
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) all.add(x[i], weight[i]);
  }
  return all.result();
}

// 8 bytes to the same place of every block of the cluster, whose barriers count them.
template <int kCluster>
__device__ void give(void* to, uint64_t* barrier, uint2 v) {
  if constexpr (kCluster == 1) {
    *static_cast<uint2*>(to) = v;
  } else {
#pragma unroll
    for (uint32_t rank = 0; rank < kCluster; ++rank) send_to_block(to, barrier, rank, v);
  }
}

template <int kCluster>
__device__ void all_blocks() {
  if constexpr (kCluster == 1) {
    __syncthreads();
  } else {
    cluster_arrive();
    cluster_wait();
  }
}

// All threads: a token's partial results by way of shared memory, for there may be a hundred.
__device__ void fold_together(const MlaOutputCall& c, OutputShared<16>& s, FoldShared& fold,
                              int token, int rank) {
  constexpr int kGroups = kThreads<16> / FoldShared::kQuads;
  constexpr int kEach = FoldShared::kSlots / kGroups;
  const TokenPlan plan = s.tokens[token];
  const int group = static_cast<int>(threadIdx.x) / FoldShared::kQuads;
  const int quad = static_cast<int>(threadIdx.x) % FoldShared::kQuads;
  const int column = (rank * FoldShared::kQuads + quad) * 4;
  Folded all;
  float4 x[kEach];
  float2 weight{-INFINITY, 0.0F};
  const auto ask = [&](int32_t first) {
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int32_t slot = first + group + i * kGroups;
      if (slot < plan.slots) x[i] = partial_sums(c, plan, slot, column);
    }
    const int32_t slot = first + static_cast<int32_t>(threadIdx.x);
    if (threadIdx.x < FoldShared::kSlots)
      weight = slot < plan.slots ? partial_weight(c, plan, slot) : float2{-INFINITY, 0.0F};
  };
  ask(0);
  for (int32_t first = 0; first < plan.slots; first += FoldShared::kSlots) {
    const int count = min(FoldShared::kSlots, plan.slots - first);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kEach; ++i) fold.sums[group + i * kGroups][quad] = x[i];
    if (threadIdx.x < FoldShared::kSlots) fold.weights[threadIdx.x] = weight;
    __syncthreads();
    ask(first + FoldShared::kSlots);
    if (group > 0) continue;
    float most = -INFINITY;
#pragma unroll 8
    for (int i = 0; i < count; ++i) most = fmaxf(most, fold.weights[i].x);
    all.move(most);
#pragma unroll 8
    for (int i = 0; i < count; ++i) all.add(fold.sums[i][quad], fold.weights[i]);
  }
  if (group == 0)
    give<OutputShared<16>::kCluster>(&s.latents[token][column], &s.brought, all.result());
}

// This block's share of the columns, to all blocks of the cluster.
template <int kColumns>
__device__ void bring_latents(const Args& a, OutputShared<kColumns>& s, int64_t first, int32_t head,
                              int rank) {
  constexpr int kCluster = OutputShared<kColumns>::kCluster;
  constexpr int kQuads = kMlaLatent / kCluster / 4;
  constexpr int kEach = kTokens * kQuads / kThreads<kColumns>;
  const MlaOutputCall& c = a.call;
  const auto place = [&](int i, int& token, int& column) {
    const int at = static_cast<int>(threadIdx.x) + i * kThreads<kColumns>;
    token = at / kQuads;
    column = (rank * kQuads + at % kQuads) * 4;
  };
  uint2 whole[kEach];
  bool cut = false;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    int token;
    int column;
    whole[i] = uint2{0, 0};
    place(i, token, column);
    const TokenState state = s.tokens[token].state;
    cut = cut || state == TokenState::kCut;
    if (state == TokenState::kWhole)
      whole[i] = __ldcg(
          reinterpret_cast<const uint2*>(static_cast<const uint16_t*>(c.latents) +
                                         ((first + token) * c.heads + head) * kMlaLatent + column));
  }
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    int token;
    int column;
    place(i, token, column);
    const TokenState state = s.tokens[token].state;
    if (state == TokenState::kWhole || (kCluster == 1 && state != TokenState::kCut))
      give<kCluster>(&s.latents[token][column], &s.brought, whole[i]);
  }
  if constexpr (kColumns == 16) {
    if (c.tokens <= kFewTokens) {
      __shared__ FoldShared fold;
      for (int token = 0; token < kFewTokens; ++token)
        if (s.tokens[token].state == TokenState::kCut) fold_together(c, s, fold, token, rank);
      return;
    }
  }
  if (!cut) return;
#pragma unroll 1
  for (int i = 0; i < kEach; ++i) {
    int token;
    int column;
    place(i, token, column);
    if (s.tokens[token].state == TokenState::kCut)
      give<kCluster>(&s.latents[token][column], &s.brought, folded(c, s.tokens[token], column));
  }
}

__device__ float power_of_two_at_least(float x) {
  const uint32_t bits = __float_as_uint(x);
  const uint32_t up = (bits & 0x7FFFFFU) != 0 ? (bits & 0x7F800000U) + 0x800000U : bits;
  return __uint_as_float(up);
}

// Four value columns a thread, as the consumer wants them; a head's 128 are a group of
// quantization.
template <int kColumns>
__device__ void store_values(const Args& a, OutputShared<kColumns>& s, int64_t first, int32_t head,
                             int rank, uint32_t phase) {
  constexpr int kCluster = OutputShared<kColumns>::kCluster;
  constexpr int kQuads = kColumns / 4;
  const Epilogue& out = a.call.out;
  const int token = static_cast<int>(threadIdx.x) / kQuads;
  const int quad = static_cast<int>(threadIdx.x) % kQuads;
  const bool mine = token < kTokens;
  const bool here = mine && s.tokens[token].state != TokenState::kSkip;
  float v[4] = {};
  if (mine) {
#pragma unroll
    for (int split = 0; split < kSplits; ++split) {
      const float4 x = *reinterpret_cast<const float4*>(&s.sums[split][token][quad * 4]);
      v[0] += x.x;
      v[1] += x.y;
      v[2] += x.z;
      v[3] += x.w;
    }
  }
  const int column = head * kMlaValue + rank * kColumns + quad * 4;
  const int64_t at = (first + token) * out.stride + column;
  if (out.format == Format::kF32) {
    if (here)
      *reinterpret_cast<float4*>(static_cast<float*>(out.data) + at) = {v[0], v[1], v[2], v[3]};
    return;
  }
  if (out.format == Format::kBF16) {
    if (here)
      *reinterpret_cast<uint2*>(static_cast<uint16_t*>(out.data) + at) =
          uint2{pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3])};
    return;
  }
  float largest = 1e-4F;
#pragma unroll
  for (float& x : v) {
    x = round_number(Format::kBF16, x);
    largest = fmaxf(largest, fabsf(x));
  }
#pragma unroll
  for (int offset = kQuads / 2; offset > 0; offset /= 2)
    largest = fmaxf(largest, __shfl_xor_sync(0xFFFFFFFFU, largest, offset));
  if constexpr (kCluster > 1) {
    if (mine && quad == 0) {
      for (uint32_t other = 0; other < kCluster; ++other)
        send_to_block(&s.largest[rank][token], &s.measured, other, largest);
    }
    barrier_wait(&s.measured, phase);
    if (mine) {
      for (int other = 0; other < kCluster; ++other)
        largest = fmaxf(largest, s.largest[other][token]);
    }
  }
  if (!here) return;
  float scale = largest / 448.0F;
  if (out.ue8m0) scale = power_of_two_at_least(scale);
  const uint32_t low =
      __nv_cvt_float2_to_fp8x2(float2{v[0] / scale, v[1] / scale}, __NV_SATFINITE, __NV_E4M3);
  const uint32_t high =
      __nv_cvt_float2_to_fp8x2(float2{v[2] / scale, v[3] / scale}, __NV_SATFINITE, __NV_E4M3);
  *reinterpret_cast<uint32_t*>(static_cast<uint8_t*>(out.data) + at) = low | high << 16;
  if (rank == 0 && quad == 0) out.scales[(first + token) * out.scale_stride + head] = scale;
}

// A warp's share: 128 of the latent's columns with kEach times 16 value columns.
template <int kColumns, int kEach>
__device__ void multiply_latents(OutputShared<kColumns>& s, const HeadWeights (&weights)[kEach],
                                 int split, int column) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const uint16_t* x = &s.latents[lane / 4][split * 128 + lane % 4 * 8];
  HeadSums sums[kEach];
#pragma unroll
  for (int i = 0; i < kEach; ++i) sums[i].clear();
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const uint4 low = *reinterpret_cast<const uint4*>(x + k * 32);
    const uint4 high = *reinterpret_cast<const uint4*>(x + 8 * kPitch + k * 32);
#pragma unroll
    for (int i = 0; i < kEach; ++i) sums[i].add(low, high, weights[i], k);
  }
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half)
      *reinterpret_cast<float4*>(
          &s.sums[split][lane / 4 + 8 * half][column + i * 16 + lane % 4 * 4]) =
          sums[i].columns(half);
  }
}

// Once the tokens' plans are known: what the cluster's blocks will send here. Other tokens' latents
// are zero.
template <int kColumns>
__device__ void expect_latents(const Args& a, OutputShared<kColumns>& s) {
  constexpr int kQuads = kMlaLatent / 4;
  const auto is_real = [&](int token) {
    const TokenState state = s.tokens[token].state;
    return state == TokenState::kWhole || state == TokenState::kCut;
  };
  __syncthreads();
  if (threadIdx.x == 0) {
    uint32_t real = 0;
    for (int token = 0; token < kTokens; ++token) real += is_real(token) ? 1 : 0;
    barrier_expect(&s.brought, real * kMlaLatent * 2);
    if (a.call.out.format == Format::kFp8)
      barrier_expect(&s.measured, kTokens * OutputShared<kColumns>::kCluster * 4);
  }
  for (int at = static_cast<int>(threadIdx.x); at < kTokens * kQuads; at += kThreads<kColumns>) {
    if (!is_real(at / kQuads))
      *reinterpret_cast<uint2*>(&s.latents[at / kQuads][at % kQuads * 4]) = uint2{0, 0};
  }
}

// Grid: blocks of all heads, and runs of token tiles: a block takes every gridDim.y-th.
template <int kColumns>
__global__ void __launch_bounds__(kThreads<kColumns>, 1)
    output_kernel(const __grid_constant__ Args a) {
  constexpr int kCluster = OutputShared<kColumns>::kCluster;
  constexpr int kGroups = kThreads<kColumns> / 32 / kSplits;  // of warps that share columns
  constexpr int kEach = kColumns / 16 / kGroups;
  extern __shared__ uint8_t raw[];
  auto& s = *reinterpret_cast<OutputShared<kColumns>*>(raw);
  const MlaOutputCall& c = a.call;
  const int warp = static_cast<int>(threadIdx.x / 32);
  const int rank = static_cast<int>(blockIdx.x) % kCluster;
  const int32_t head = static_cast<int32_t>(blockIdx.x) / kCluster;
  const int split = warp % kSplits;
  const int group = warp / kSplits;
  const int column = group * kEach * 16;
  if (threadIdx.x == 0) {
    barrier_init(&s.brought, 1);
    barrier_init(&s.measured, 1);
    barrier_init_done();
  }
  HeadWeights weights[kEach];
#pragma unroll
  for (int i = 0; i < kEach; ++i)
    weights[i].load(
        static_cast<const uint16_t*>(c.up_value) +
            (int64_t{head} * kMlaValue + rank * kColumns + column + i * 16) * kMlaLatent +
            split * 128,
        kMlaLatent);
  let_next_kernel_start();
  const int64_t step = int64_t{gridDim.y} * kTokens;
  uint32_t phase = 0;
  for (int64_t first = int64_t{blockIdx.y} * kTokens; first < c.tokens; first += step) {
    if (threadIdx.x < kTokens) s.tokens[threadIdx.x] = plan_token(a, first + threadIdx.x, head);
    if constexpr (kCluster > 1) expect_latents(a, s);
    all_blocks<kCluster>();  // plans are made, and no block reads the latents before these
    wait_for_earlier_kernels();
    bring_latents<kColumns>(a, s, first, head, rank);
    if constexpr (kCluster > 1) {
      barrier_wait(&s.brought, phase);
    } else {
      __syncthreads();
    }
    multiply_latents<kColumns, kEach>(s, weights, split, column);
    __syncthreads();
    store_values<kColumns>(a, s, first, head, rank, phase);
    __syncthreads();
    phase ^= 1;
  }
}

template <int kColumns>
cudaError_t launch(cudaStream_t stream, const Args& a) {
  constexpr unsigned kCluster = OutputShared<kColumns>::kCluster;
  constexpr size_t kShared = sizeof(OutputShared<kColumns>);
  if (kShared > 48 * 1024) {
    const cudaError_t error =
        cudaFuncSetAttribute(output_kernel<kColumns>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(kShared));
    if (error != cudaSuccess) return error;
  }
  const auto tiles = static_cast<unsigned>((a.call.tokens + kTokens - 1) / kTokens);
  const auto heads = static_cast<unsigned>(a.call.heads);
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeClusterDimension;
  attributes[1].val.clusterDim = {kCluster, 1, 1};
  cudaLaunchConfig_t config{};
  // One round of blocks, which take several tiles rather than that weights are read again.
  const unsigned runs = std::clamp(kMultiprocessors / heads, 1U, tiles);
  config.gridDim = dim3(heads * kCluster, runs);
  config.blockDim = dim3(kThreads<kColumns>);
  config.dynamicSmemBytes = kShared;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = kCluster > 1 ? 2 : 1;
  return cudaLaunchKernelEx(&config, output_kernel<kColumns>, a);
}

bool on_16_bytes(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

}  // namespace

bool mla_output_fits(const MlaOutputCall& call) {
  return call.out.stride % 4 == 0 && call.out.first_column_in_block == 0 &&
         on_16_bytes(call.out.data) && on_16_bytes(call.up_value);
}

cudaError_t mla_output(cudaStream_t stream, const MlaDecodeConfig& config,
                       const MlaOutputCall& call) {
  if (call.tokens == 0) return cudaSuccess;
  const Args a{call, config.tiles, config.tile_pairs};
  const int64_t blocks = (call.tokens + kTokens - 1) / kTokens * call.heads;
  if (blocks >= 96) return launch<128>(stream, a);
  if (blocks >= 48) return launch<64>(stream, a);
  if (blocks >= 24) return launch<32>(stream, a);
  return launch<16>(stream, a);
}

}  // namespace fathom::kernels
