// Heads of grouped attention made ready in one pass: bias, norm and rope, cache entries in bf16 or
// e4m3. A warp has a head of a token; any architecture.
#include "async_copy.cuh"
#include "early_launch.cuh"
#include "gqa_decode.h"
#include "number.cuh"

namespace fathom::kernels {
namespace {

constexpr int kPrepareThreads = 128;

// A lane's dimensions of a head: kEach from lane * kEach on in the lower half, and their partners.
template <int kEach>
struct LaneHead {
  float low[kEach];
  float high[kEach];
};

template <typename T, int kEach>
struct alignas(sizeof(T) * kEach) Neighbours {
  T x[kEach];
};

template <int kEach>
__device__ LaneHead<kEach> load_lane(const float* from, int lane) {
  LaneHead<kEach> x;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    x.low[i] = from == nullptr ? 0.0F : from[lane * kEach + i];
    x.high[i] = from == nullptr ? 0.0F : from[(32 + lane) * kEach + i];
  }
  return x;
}

template <int kEach>
__device__ LaneHead<kEach> load_lane(const __nv_bfloat16* from, int lane) {
  const auto* parts = reinterpret_cast<const Neighbours<__nv_bfloat16, kEach>*>(from);
  const Neighbours<__nv_bfloat16, kEach> low = parts[lane];
  const Neighbours<__nv_bfloat16, kEach> high = parts[32 + lane];
  LaneHead<kEach> x;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    x.low[i] = __bfloat162float(low.x[i]);
    x.high[i] = __bfloat162float(high.x[i]);
  }
  return x;
}

template <int kEach>
__device__ void store_lane(__nv_bfloat16* to, int lane, const LaneHead<kEach>& x) {
  auto* parts = reinterpret_cast<Neighbours<__nv_bfloat16, kEach>*>(to);
  Neighbours<__nv_bfloat16, kEach> low;
  Neighbours<__nv_bfloat16, kEach> high;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    low.x[i] = __float2bfloat16_rn(x.low[i]);
    high.x[i] = __float2bfloat16_rn(x.high[i]);
  }
  parts[lane] = low;
  parts[32 + lane] = high;
}

// A padding token's row of the output, one head.
__device__ void clear_head(const GqaPrepareCall& c, int64_t token, int head) {
  const int dims = c.shape.head_dims;
  for (int d = static_cast<int>(threadIdx.x % 32); d < dims; d += 32) {
    const int64_t at = token * c.out.stride + int64_t{head} * dims + d;
    if (c.out.format == Format::kFp8) {
      static_cast<uint8_t*>(c.out.data)[at] = 0;
      if (d == 0) c.out.scales[token * c.out.scale_stride + head] = 0.0F;
    } else {
      store_number(c.out.data, c.out.format, at, 0.0F);
    }
  }
}

// Where a key or value head of a token is cached.
__device__ __nv_bfloat16* cached_head(const GqaShape& s, const AttentionBatch& b, int64_t token,
                                      int32_t position, int head) {
  const int32_t slot = b.row_slot[b.token_row[token]];
  const int64_t block = b.block_table[slot * b.table_stride + position / s.block_tokens];
  const int64_t entry = block * s.block_tokens + position % s.block_tokens;
  return static_cast<__nv_bfloat16*>(b.cache) +
         (entry * 2 * s.kv_heads + head) * int64_t{s.head_dims};
}

// A key or value head as e4m3 codes with a scale (fathom/fp8_cache.h). By a whole warp.
template <int kEach>
__device__ void store_codes(const GqaShape& s, const AttentionBatch& b, int64_t token,
                            int32_t position, int head, LaneHead<kEach> x) {
  const auto lane = static_cast<int>(threadIdx.x % 32);
  float most = 1e-4F;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    x.low[i] = round_number(Format::kBF16, x.low[i]);
    x.high[i] = round_number(Format::kBF16, x.high[i]);
    most = fmaxf(most, fmaxf(fabsf(x.low[i]), fabsf(x.high[i])));
  }
  for (int offset = 16; offset > 0; offset /= 2)
    most = fmaxf(most, __shfl_xor_sync(0xFFFFFFFFU, most, offset));
  const float scale = most / 448.0F;
  const int64_t codes = 2 * int64_t{s.kv_heads} * s.head_dims;
  const int32_t slot = b.row_slot[b.token_row[token]];
  const int64_t block = b.block_table[slot * b.table_stride + position / s.block_tokens];
  const int64_t inside = position % s.block_tokens;
  uint8_t* start =
      static_cast<uint8_t*>(b.cache) + block * s.block_tokens * (codes + 8 * s.kv_heads);
  uint8_t* to = start + inside * codes + int64_t{head} * s.head_dims;
  Neighbours<uint8_t, kEach> low;
  Neighbours<uint8_t, kEach> high;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    low.x[i] = __nv_cvt_float_to_fp8(x.low[i] / scale, __NV_SATFINITE, __NV_E4M3);
    high.x[i] = __nv_cvt_float_to_fp8(x.high[i] / scale, __NV_SATFINITE, __NV_E4M3);
  }
  auto* parts = reinterpret_cast<Neighbours<uint8_t, kEach>*>(to);
  parts[lane] = low;
  parts[32 + lane] = high;
  const int half = head / s.kv_heads;
  auto* scales = reinterpret_cast<float*>(start + s.block_tokens * codes);
  if (lane == 0) scales[(head % s.kv_heads * 2 + half) * s.block_tokens + inside] = scale;
}

// Norm and rope of one head; a value head has neither. By a whole warp.
template <int kEach>
__device__ void turn_head(const GqaPrepareCall& c, const LaneHead<kEach>& gain, bool normed,
                          const LaneHead<kEach>& cosines, const LaneHead<kEach>& sines,
                          LaneHead<kEach>& x) {
  if (normed) {
    float squares = 0.0F;
#pragma unroll
    for (int i = 0; i < kEach; ++i) squares += x.low[i] * x.low[i] + x.high[i] * x.high[i];
    const float scale =
        1.0F / sqrtf(warp_sum(squares) / static_cast<float>(64 * kEach) + c.shape.norm_epsilon);
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      x.low[i] *= scale * gain.low[i];
      x.high[i] *= scale * gain.high[i];
    }
  }
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const float low = x.low[i];
    x.low[i] = low * cosines.low[i] - x.high[i] * sines.low[i];
    x.high[i] = x.high[i] * cosines.low[i] + low * sines.low[i];
  }
}

// One warp a head: it counts query heads, then key heads, then value heads of a row of qkv.
template <int kEach>
__global__ void __launch_bounds__(kPrepareThreads)
    prepare_heads_kernel(const __grid_constant__ GqaPrepareCall c) {
  constexpr int kDims = 64 * kEach;
  const GqaShape& s = c.shape;
  const AttentionBatch& b = c.batch;
  const auto lane = static_cast<int>(threadIdx.x % 32);
  const auto h = static_cast<int>(blockIdx.y * (kPrepareThreads / 32) + threadIdx.x / 32);
  const bool is_query = h < s.heads;
  const bool is_value = h >= s.heads + s.kv_heads;
  if (h >= s.heads + 2 * s.kv_heads) return;
  const int64_t column = int64_t{h} * kDims;
  const LaneHead<kEach> bias =
      load_lane<kEach>(c.heads.bias == nullptr ? nullptr : c.heads.bias + column, lane);
  const float* norm = is_value ? nullptr : is_query ? c.heads.q_norm : c.heads.k_norm;
  const LaneHead<kEach> gain = load_lane<kEach>(norm, lane);
  let_next_kernel_start();
  wait_for_earlier_kernels();
  const int64_t t = blockIdx.x;
  for (int i = static_cast<int>(blockIdx.x * kPrepareThreads + threadIdx.x);
       blockIdx.y == 0 && i < c.arrival_count; i += static_cast<int>(gridDim.x * kPrepareThreads)) {
    c.arrivals[i] = 0;
  }
  if (b.token_valid[t] == 0) {
    if (is_query) clear_head(c, t, h);
    return;
  }
  const auto* row = static_cast<const __nv_bfloat16*>(c.qkv.data) + t * c.qkv.stride;
  LaneHead<kEach> x = load_lane<kEach>(row + column, lane);
  const int32_t position = b.positions[t];
  LaneHead<kEach> cosines;  // the lower half's: the upper one has the same
  LaneHead<kEach> sines;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    cosines.low[i] = b.cosines[position * b.rope_stride + lane * kEach + i];
    sines.low[i] = b.sines[position * b.rope_stride + lane * kEach + i];
    x.low[i] += bias.low[i];
    x.high[i] += bias.high[i];
  }
  if (!is_value) turn_head(c, gain, norm != nullptr, cosines, sines, x);
  if (!is_query && b.cache_format == Format::kFp8) {
    store_codes<kEach>(s, b, t, position, h - s.heads, x);
    return;
  }
  store_lane<kEach>(is_query ? static_cast<__nv_bfloat16*>(c.queries) + (t * s.heads + h) * kDims
                             : cached_head(s, b, t, position, h - s.heads),
                    lane, x);
}

}  // namespace

cudaError_t gqa_prepare_heads(cudaStream_t stream, const GqaPrepareCall& call) {
  if (call.batch.tokens == 0) return cudaSuccess;
  constexpr int kHeads = kPrepareThreads / 32;
  const int32_t heads = call.shape.heads + 2 * call.shape.kv_heads;
  const dim3 grid(static_cast<unsigned>(call.batch.tokens),
                  static_cast<unsigned>((heads + kHeads - 1) / kHeads));
  const dim3 block(kPrepareThreads);
  switch (call.shape.head_dims) {
    case 64: return launch_early(stream, prepare_heads_kernel<1>, grid, block, call);
    case 128: return launch_early(stream, prepare_heads_kernel<2>, grid, block, call);
    case 256: return launch_early(stream, prepare_heads_kernel<4>, grid, block, call);
    default: return cudaErrorNotSupported;
  }
}

}  // namespace fathom::kernels
