// Heads of grouped attention made ready in one pass: bias, norm and rope, cache entries in bf16 or
// e4m3; any architecture.
#include "async_copy.cuh"
#include "early_launch.cuh"
#include "gqa_fp8_cache.cuh"
#include "gqa_heads.cuh"
#include "number.cuh"

namespace fathom::kernels {
namespace {

constexpr int kPrepareThreads = 128;

// A launch of more heads gives each warp several: their loads are under way together.
constexpr int64_t kAloneHeadsMax = 6144;
constexpr int kWarpHeads = 2;

// A token's entry in the cache.
struct EntryPlace {
  int64_t block;
  int32_t inside;  // of the block's tokens
};

__device__ inline EntryPlace entry_place(const GqaShape& s, const AttentionBatch& b, int32_t row,
                                         int32_t position) {
  const int32_t slot = b.row_slot[row];
  return {b.block_table[slot * b.table_stride + position / s.block_tokens],
          position % s.block_tokens};
}

// A key or value head as e4m3 codes with a scale (fathom/fp8_cache.h). By a whole warp.
template <int kEach>
__device__ void store_codes(const GqaShape& s, const AttentionBatch& b, const EntryPlace& place,
                            int head, LaneHead<kEach> x) {
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
  const float scale = fp8_scale(most / 448.0F);
  const int half = head / s.kv_heads;
  const int key_head = head % s.kv_heads;
  uint8_t* start = static_cast<uint8_t*>(b.cache) + place.block * fp8_block_bytes(s);
  Neighbours<uint8_t, kEach> low;
  Neighbours<uint8_t, kEach> high;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    low.x[i] = __nv_cvt_float_to_fp8(x.low[i] / scale, __NV_SATFINITE, __NV_E4M3);
    high.x[i] = __nv_cvt_float_to_fp8(x.high[i] / scale, __NV_SATFINITE, __NV_E4M3);
  }
  auto* parts = reinterpret_cast<Neighbours<uint8_t, kEach>*>(
      start + fp8_codes_at(s, place.inside, key_head, half));
  parts[lane] = low;
  parts[32 + lane] = high;
  if (lane == 0)
    *reinterpret_cast<Fp8Scale*>(start + fp8_scale_at(s, place.inside, key_head, half)) =
        __float2bfloat16_rn(scale);
}

// A head's bias, norm and rope, and where it goes. Of a row of qkv head `h` counts query heads,
// then key heads, then value heads.
template <int kEach>
__device__ void finish_head(const GqaPrepareCall& c, int64_t token, const EntryPlace& place,
                            const LaneRope<kEach>& rope, int h, LaneHead<kEach> x) {
  constexpr int kDims = 64 * kEach;
  const GqaShape& s = c.shape;
  const auto lane = static_cast<int>(threadIdx.x % 32);
  const bool is_query = h < s.heads;
  const bool is_value = h >= s.heads + s.kv_heads;
  const float* norm = is_value ? nullptr : is_query ? c.heads.q_norm : c.heads.k_norm;
  const float* bias = c.heads.bias == nullptr ? nullptr : c.heads.bias + int64_t{h} * kDims;
  ready_head(x, load_lane<kEach>(bias, lane), load_lane<kEach>(norm, lane), norm != nullptr,
             s.norm_epsilon);
  if (!is_value) turn_head(x, rope);
  if (is_query) {
    store_lane<kEach>(static_cast<__nv_bfloat16*>(c.queries) + (token * s.heads + h) * kDims, lane,
                      x);
  } else if (c.batch.cache_format == Format::kFp8) {
    store_codes<kEach>(s, c.batch, place, h - s.heads, x);
  } else {
    const int64_t entry = place.block * s.block_tokens + place.inside;
    store_lane<kEach>(static_cast<__nv_bfloat16*>(c.batch.cache) +
                          (entry * 2 * s.kv_heads + h - s.heads) * kDims,
                      lane, x);
  }
}

// A warp has kHeads heads of a token. What the step's tokens are is older than its first kernel,
// which waits for all before it: it is read while qkv is still multiplied.
template <int kEach, int kHeads>
__global__ void __launch_bounds__(kPrepareThreads)
    prepare_heads_kernel(const __grid_constant__ GqaPrepareCall c) {
  constexpr int kDims = 64 * kEach;
  const GqaShape& s = c.shape;
  const AttentionBatch& b = c.batch;
  const auto lane = static_cast<int>(threadIdx.x % 32);
  const auto warp = static_cast<int>(blockIdx.y * (kPrepareThreads / 32) + threadIdx.x / 32);
  const int first = warp * kHeads;
  const int last = min(first + kHeads, s.heads + 2 * s.kv_heads);
  const int64_t t = blockIdx.x;
  let_next_kernel_start();
  const bool valid = b.token_valid[t] != 0;
  const int32_t position = b.positions[t];
  const int32_t token_row = b.token_row[t];
  EntryPlace place{};
  LaneRope<kEach> rope{};
  if (valid) {
    rope = load_rope<kEach>(b, position, lane);
    place = entry_place(s, b, token_row, position);
  }
  wait_for_earlier_kernels();
  for (int i = static_cast<int>(blockIdx.x * kPrepareThreads + threadIdx.x);
       blockIdx.y == 0 && i < c.arrival_count; i += static_cast<int>(gridDim.x * kPrepareThreads)) {
    c.arrivals[i] = 0;
  }
  if (!valid) {
    for (int h = first; h < min(last, s.heads); ++h) clear_head(c.out, s.head_dims, t, h);
    return;
  }
  const auto* row = static_cast<const __nv_bfloat16*>(c.qkv.data) + t * c.qkv.stride;
  LaneHead<kEach> x[kHeads];
#pragma unroll
  for (int i = 0; i < kHeads; ++i)
    if (first + i < last) x[i] = load_lane<kEach>(row + int64_t{first + i} * kDims, lane);
#pragma unroll
  for (int i = 0; i < kHeads; ++i)
    if (first + i < last) finish_head<kEach>(c, t, place, rope, first + i, x[i]);
}

template <int kEach>
cudaError_t launch_prepare(cudaStream_t stream, const GqaPrepareCall& call) {
  const int32_t heads = call.shape.heads + 2 * call.shape.kv_heads;
  const bool alone = call.batch.tokens * heads <= kAloneHeadsMax;
  const int32_t of_block = kPrepareThreads / 32 * (alone ? 1 : kWarpHeads);
  const dim3 grid(static_cast<unsigned>(call.batch.tokens),
                  static_cast<unsigned>((heads + of_block - 1) / of_block));
  return alone ? launch_early(stream, prepare_heads_kernel<kEach, 1>, grid, dim3(kPrepareThreads),
                              call)
               : launch_early(stream, prepare_heads_kernel<kEach, kWarpHeads>, grid,
                              dim3(kPrepareThreads), call);
}

}  // namespace

cudaError_t gqa_prepare_heads(cudaStream_t stream, const GqaPrepareCall& call) {
  if (call.batch.tokens == 0) return cudaSuccess;
  switch (call.shape.head_dims) {
    case 64: return launch_prepare<1>(stream, call);
    case 128: return launch_prepare<2>(stream, call);
    case 256: return launch_prepare<4>(stream, call);
    default: return cudaErrorNotSupported;
  }
}

}  // namespace fathom::kernels
