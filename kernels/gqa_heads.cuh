// One head of one token on a warp: bias, norm and rope, and its place in the cache.
#pragma once

#include "gqa_decode.h"
#include "number.cuh"

namespace fathom::kernels {

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
__device__ inline void clear_head(const Epilogue& out, int dims, int64_t token, int head) {
  for (int d = static_cast<int>(threadIdx.x % 32); d < dims; d += 32) {
    const int64_t at = token * out.stride + int64_t{head} * dims + d;
    if (out.format == Format::kFp8) {
      static_cast<uint8_t*>(out.data)[at] = 0;
      if (d == 0) out.scales[token * out.scale_stride + head] = 0.0F;
    } else {
      store_number(out.data, out.format, at, 0.0F);
    }
  }
}

// Angles of a lane's pairs at one position.
template <int kEach>
struct LaneRope {
  float cosine[kEach];
  float sine[kEach];
};

template <int kEach>
__device__ LaneRope<kEach> load_rope(const AttentionBatch& b, int32_t position, int lane) {
  LaneRope<kEach> rope;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int64_t at = position * b.rope_stride + lane * kEach + i;
    rope.cosine[i] = b.cosines[at];
    rope.sine[i] = b.sines[at];
  }
  return rope;
}

// Bias and, where the model has one, the head's norm. Every rounding is written out: kernels that
// share this agree bit for bit.
template <int kEach>
__device__ void ready_head(LaneHead<kEach>& x, const LaneHead<kEach>& bias,
                           const LaneHead<kEach>& gain, bool normed, float epsilon) {
  constexpr int kDims = 64 * kEach;
  float squares = 0.0F;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    x.low[i] += bias.low[i];
    x.high[i] += bias.high[i];
    squares = __fmaf_rn(x.high[i], x.high[i], __fmaf_rn(x.low[i], x.low[i], squares));
  }
  if (!normed) return;
  const float scale = 1.0F / sqrtf(warp_sum(squares) / static_cast<float>(kDims) + epsilon);
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    x.low[i] *= scale * gain.low[i];
    x.high[i] *= scale * gain.high[i];
  }
}

template <int kEach>
__device__ void turn_head(LaneHead<kEach>& x, const LaneRope<kEach>& rope) {
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const float low = x.low[i];
    x.low[i] = __fmaf_rn(low, rope.cosine[i], -__fmul_rn(x.high[i], rope.sine[i]));
    x.high[i] = __fmaf_rn(x.high[i], rope.cosine[i], __fmul_rn(low, rope.sine[i]));
  }
}

}  // namespace fathom::kernels
