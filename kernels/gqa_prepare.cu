// Heads of grouped attention made ready in one pass: bias, norm and rope, cache entries in bf16 or
// e4m3. A warp has a head of a token; any architecture.
#include "async_copy.cuh"
#include "early_launch.cuh"
#include "gqa_heads.cuh"
#include "number.cuh"

namespace fathom::kernels {
namespace {

constexpr int kPrepareThreads = 128;

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
    if (is_query) clear_head(c.out, s.head_dims, t, h);
    return;
  }
  const auto* row = static_cast<const __nv_bfloat16*>(c.qkv.data) + t * c.qkv.stride;
  LaneHead<kEach> x = load_lane<kEach>(row + column, lane);
  const int32_t position = b.positions[t];
  const LaneRope<kEach> rope = is_value ? LaneRope<kEach>{} : load_rope<kEach>(b, position, lane);
  ready_head(x, bias, gain, norm != nullptr, s.norm_epsilon);
  if (!is_value) turn_head(x, rope);
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
