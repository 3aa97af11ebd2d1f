// Heads of grouped attention made ready for the tokens of prompts: what gqa_prepare.cu does, bit
// for bit, for heads of 128 dimensions that have no norm. A block has all heads of a token and asks
// for all of them before it waits for any; eight lanes have a head, 16 bytes of either half each.
#include "async_copy.cuh"
#include "early_launch.cuh"
#include "gqa_fp8_cache.cuh"
#include "gqa_heads.cuh"
#include "gqa_prepare_many.h"
#include "number.cuh"

namespace fathom::kernels {
namespace {

constexpr int kManyPrepareThreads = 128;
constexpr int kHeadLanes = 8;
constexpr int kEach = 8;  // numbers of a half
constexpr int kDims = 128;
constexpr int kHeadsAtOnce = kManyPrepareThreads / kHeadLanes;

struct EightHead {
  float low[kEach];
  float high[kEach];
};

__device__ void unpack(const uint4& words, float (&to)[kEach]) {
  const uint32_t all[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    to[2 * i] = __uint_as_float(all[i] << 16);
    to[2 * i + 1] = __uint_as_float(all[i] & 0xFFFF0000U);
  }
}

__device__ uint4 pack(const float (&x)[kEach]) {
  return {pack_pair(x[0], x[1]), pack_pair(x[2], x[3]), pack_pair(x[4], x[5]),
          pack_pair(x[6], x[7])};
}

__device__ void load_floats(const float* from, float (&to)[kEach]) {
  const auto* fours = reinterpret_cast<const float4*>(from);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float4 four = fours[i];
    to[4 * i] = four.x;
    to[4 * i + 1] = four.y;
    to[4 * i + 2] = four.z;
    to[4 * i + 3] = four.w;
  }
}

// As ready_head has it without a norm, a bias that is not there being 0.
__device__ void add_bias(EightHead& x, const float* bias, int64_t at) {
  float low[kEach] = {};
  float high[kEach] = {};
  if (bias != nullptr) {
    load_floats(bias + at, low);
    load_floats(bias + at + kDims / 2, high);
  }
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    x.low[i] += low[i];
    x.high[i] += high[i];
  }
}

__device__ void turn(EightHead& x, const float (&cosine)[kEach], const float (&sine)[kEach]) {
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const float low = x.low[i];
    x.low[i] = __fmaf_rn(low, cosine[i], -__fmul_rn(x.high[i], sine[i]));
    x.high[i] = __fmaf_rn(x.high[i], cosine[i], __fmul_rn(low, sine[i]));
  }
}

__device__ uint2 codes_of(const float (&x)[kEach], float scale) {
  uint32_t words[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    words[half] = 0;
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
      const float2 two = {x[4 * half + i] / scale, x[4 * half + i + 1] / scale};
      words[half] |= uint32_t{__nv_cvt_float2_to_fp8x2(two, __NV_SATFINITE, __NV_E4M3)} << (8 * i);
    }
  }
  return {words[0], words[1]};
}

__device__ float round_all(float (&x)[kEach], float most) {
#pragma unroll
  for (float& v : x) {
    v = round_number(Format::kBF16, v);
    most = fmaxf(most, fabsf(v));
  }
  return most;
}

// A key or value head (`head` counts keys, then values) as e4m3 codes with a scale. By its eight
// lanes; `block` is the first byte of the token's block.
__device__ void store_codes(const GqaShape& s, uint8_t* block, int64_t inside, int head, int lane,
                            EightHead& x) {
  float most = round_all(x.high, round_all(x.low, 1e-4F));
  const uint32_t lanes = 0xFFU << (threadIdx.x % 32 / kHeadLanes * kHeadLanes);
#pragma unroll
  for (int offset = kHeadLanes / 2; offset > 0; offset /= 2)
    most = fmaxf(most, __shfl_xor_sync(lanes, most, offset));
  const float scale = fp8_scale(most / 448.0F);
  const int half = head / s.kv_heads;
  const int key_head = head % s.kv_heads;
  uint8_t* to = block + fp8_codes_at(s, inside, key_head, half) + lane * kEach;
  *reinterpret_cast<uint2*>(to) = codes_of(x.low, scale);
  *reinterpret_cast<uint2*>(to + kDims / 2) = codes_of(x.high, scale);
  if (lane == 0)
    *reinterpret_cast<Fp8Scale*>(block + fp8_scale_at(s, inside, key_head, half)) =
        __float2bfloat16_rn(scale);
}

__device__ void store_bf16(__nv_bfloat16* head, int lane, const EightHead& x) {
  *reinterpret_cast<uint4*>(head + lane * kEach) = pack(x.low);
  *reinterpret_cast<uint4*>(head + kDims / 2 + lane * kEach) = pack(x.high);
}

// kPasses times kHeadsAtOnce heads are as many as there are, or more. What the step's tokens are is
// older than its first kernel, which waits for all before it: it is read while qkv is still
// multiplied.
template <int kPasses>
__global__ void __launch_bounds__(kManyPrepareThreads, 5)
    prepare_many_kernel(const __grid_constant__ GqaPrepareCall c) {
  const GqaShape& s = c.shape;
  const AttentionBatch& b = c.batch;
  const int lane = static_cast<int>(threadIdx.x) % kHeadLanes;
  const int first = static_cast<int>(threadIdx.x) / kHeadLanes;
  const int heads = s.heads + 2 * s.kv_heads;
  const int64_t t = blockIdx.x;
  let_next_kernel_start();
  const bool valid = b.token_valid[t] != 0;
  const int32_t position = b.positions[t];
  const int32_t row_of_token = b.token_row[t];
  const int32_t slot = b.row_slot[valid ? row_of_token : 0];
  const int64_t block =
      valid ? b.block_table[slot * b.table_stride + position / s.block_tokens] : 0;
  const int64_t inside = position % s.block_tokens;
  wait_for_earlier_kernels();
  for (int i = static_cast<int>(blockIdx.x * kManyPrepareThreads + threadIdx.x);
       i < c.arrival_count; i += static_cast<int>(gridDim.x * kManyPrepareThreads)) {
    c.arrivals[i] = 0;
  }
  uint4 low[kPasses];
  uint4 high[kPasses];
  const auto* row = static_cast<const __nv_bfloat16*>(c.qkv.data) + t * c.qkv.stride;
#pragma unroll
  for (int pass = 0; pass < kPasses; ++pass) {
    const int h = min(pass * kHeadsAtOnce + first, heads - 1);
    const auto* from = reinterpret_cast<const uint4*>(row + h * kDims + lane * kEach);
    low[pass] = from[0];
    high[pass] = from[kDims / 2 / kEach];
  }
  if (!valid) {
    const int warp = static_cast<int>(threadIdx.x / 32);
    for (int h = warp; h < s.heads; h += kManyPrepareThreads / 32) clear_head(c.out, kDims, t, h);
    return;
  }
  float cosine[kEach];
  float sine[kEach];
  load_floats(b.cosines + position * b.rope_stride + lane * kEach, cosine);
  load_floats(b.sines + position * b.rope_stride + lane * kEach, sine);
#pragma unroll
  for (int pass = 0; pass < kPasses; ++pass) {
    const int h = pass * kHeadsAtOnce + first;
    if (h >= heads) continue;
    EightHead x;
    unpack(low[pass], x.low);
    unpack(high[pass], x.high);
    add_bias(x, c.heads.bias, int64_t{h} * kDims + lane * kEach);
    if (h < s.heads + s.kv_heads) turn(x, cosine, sine);
    if (h < s.heads) {
      store_bf16(static_cast<__nv_bfloat16*>(c.queries) + (t * s.heads + h) * kDims, lane, x);
    } else if (b.cache_format == Format::kFp8) {
      store_codes(s, static_cast<uint8_t*>(b.cache) + block * fp8_block_bytes(s), inside,
                  h - s.heads, lane, x);
    } else {
      store_bf16(static_cast<__nv_bfloat16*>(b.cache) +
                     ((block * s.block_tokens + inside) * 2 * s.kv_heads + h - s.heads) * kDims,
                 lane, x);
    }
  }
}

}  // namespace

bool gqa_prepares_many(const GqaPrepareCall& c) {
  const auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  const int32_t heads = c.shape.heads + 2 * c.shape.kv_heads;
  return c.batch.tokens >= kPrepareManyTokens && c.batch.cache_format != Format::kF32 &&
         c.shape.head_dims == kDims && heads <= 4 * kHeadsAtOnce && c.heads.q_norm == nullptr &&
         c.heads.k_norm == nullptr && aligned(c.qkv.data) && c.qkv.stride % kEach == 0 &&
         aligned(c.queries) && aligned(c.batch.cache) && aligned(c.heads.bias) &&
         aligned(c.batch.cosines) && aligned(c.batch.sines) && c.batch.rope_stride % 4 == 0;
}

cudaError_t gqa_prepare_many(cudaStream_t stream, const GqaPrepareCall& c) {
  const int32_t heads = c.shape.heads + 2 * c.shape.kv_heads;
  const dim3 grid(static_cast<unsigned>(c.batch.tokens));
  const dim3 block(kManyPrepareThreads);
  switch ((heads + kHeadsAtOnce - 1) / kHeadsAtOnce) {
    case 1: return launch_early(stream, prepare_many_kernel<1>, grid, block, c);
    case 2: return launch_early(stream, prepare_many_kernel<2>, grid, block, c);
    case 3: return launch_early(stream, prepare_many_kernel<3>, grid, block, c);
    case 4: return launch_early(stream, prepare_many_kernel<4>, grid, block, c);
    default: return cudaErrorNotSupported;
  }
}

}  // namespace fathom::kernels
