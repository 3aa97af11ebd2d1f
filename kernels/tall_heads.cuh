// The end of a tall tile of qkv: its 128 columns are one head, which is turned and stored where
// attention reads it. Two warps that have nothing to multiply find the tokens' places meanwhile.
#pragma once

#include "gqa_fp8_cache.cuh"
#include "gqa_heads.cuh"
#include "tall_store.cuh"

namespace fathom::kernels {

constexpr int kTallPlaceThreads = 64;

// ---- What the tokens' rows are, older than the step's first kernel.

__device__ inline void tall_find_places(const GqaPrepareCall& c, TallPlace* places, int thread) {
  const AttentionBatch& b = c.batch;
  const auto tokens = static_cast<int32_t>(b.tokens);
#pragma unroll 4
  for (int32_t t = thread; t < tokens; t += kTallPlaceThreads) {
    const bool valid = b.token_valid[t] != 0;
    const int32_t position = b.positions[t];
    const int32_t slot = b.row_slot[valid ? b.token_row[t] : 0];
    const int32_t block =
        valid ? b.block_table[slot * b.table_stride + position / kGqaBlockTokens] : 0;
    const int32_t entry = block * kGqaBlockTokens + position % kGqaBlockTokens;
    places[t] = valid ? TallPlace{position, entry} : TallPlace{0, -1};
  }
}

// What attention finds cleared: its counters, and rows of padding.
__device__ inline void tall_clear(const GqaPrepareCall& c, const TallPlace* places, int thread) {
  for (auto i = static_cast<int>(blockIdx.x) * kTallPlaceThreads + thread; i < c.arrival_count;
       i += static_cast<int>(gridDim.x) * kTallPlaceThreads) {
    c.arrivals[i] = 0;
  }
  for (auto t = static_cast<int32_t>(blockIdx.x); t < c.batch.tokens;
       t += static_cast<int32_t>(gridDim.x)) {
    if (places[t].entry >= 0) continue;
    for (int h = thread / 32; h < c.shape.heads; h += kTallPlaceThreads / 32)
      clear_head(c.out, kTallHeadDims, t, h);
  }
}

// ---- Heads.

// Rope of one of a thread's two rows, in all of a tile's heads.
template <int kHalf, int kBoxes>
__device__ void tall_turn(const AttentionBatch& b, int32_t position, float (&v)[kBoxes][64]) {
  const int64_t at = position * b.rope_stride + threadIdx.x % 4 * 2;
  const auto* cosines = reinterpret_cast<const float2*>(b.cosines + at);
  const auto* sines = reinterpret_cast<const float2*>(b.sines + at);
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const float2 cosine = cosines[4 * j];
    const float2 sine = sines[4 * j];
#pragma unroll
    for (int i = 0; i < 2 * kBoxes; ++i) {
      const float c = i % 2 == 0 ? cosine.x : cosine.y;
      const float s = i % 2 == 0 ? sine.x : sine.y;
      float& low = v[i / 2][4 * j + 2 * kHalf + i % 2];
      float& high = v[i / 2][4 * (j + 8) + 2 * kHalf + i % 2];
      const float before = low;
      low = __fmaf_rn(before, c, -__fmul_rn(high, s));
      high = __fmaf_rn(high, c, __fmul_rn(before, s));
    }
  }
}

__device__ inline void tall_round(float (&v)[64]) {
#pragma unroll
  for (int i = 0; i < 64; i += 2) {
    const float2 two = bf16_values(bf16_pair(v[i], v[i + 1]));
    v[i] = two.x;
    v[i + 1] = two.y;
  }
}

template <int kHalf>
__device__ void tall_stage_head(const float (&v)[64], float scale, uint8_t* to) {
  const float inverse = inverse_of(scale);
  const auto code = [&](float x) { return copysignf(quotient(x, scale, inverse), x); };
#pragma unroll
  for (int j = 0; j < 16; ++j) {
    const float2 two = {code(v[4 * j + 2 * kHalf]), code(v[4 * j + 2 * kHalf + 1])};
    *reinterpret_cast<uint16_t*>(to + 8 * j) =
        __nv_cvt_float2_to_fp8x2(two, __NV_SATFINITE, __NV_E4M3);
  }
}

struct TallHeadStore {
  const GqaPrepareCall& c;
  const TallPlace* places;

  // Staged rows of 128 bytes of this warp to where to(index) says, index(row) being negative of
  // rows that go nowhere.
  template <typename Index, typename To>
  __device__ static void copy_rows(const TallRows& r, const Index& index, const To& to) {
    const auto lane = static_cast<int>(threadIdx.x % 32);
    const uint8_t* from = r.staged + lane / 8 * kTallPitch + lane % 8 * 16;
#pragma unroll
    for (int i = 0; i < 16; i += 4) {
      const int32_t at = index(i + lane / 8);
      if (at < 0) continue;
      *reinterpret_cast<uint4*>(to(at) + lane % 8 * 16) =
          *reinterpret_cast<const uint4*>(from + i * kTallPitch);
    }
  }
  __device__ int32_t entry(const TallRows& r, int row) const {
    return r.there(row) ? places[r.at(row)].entry : -1;
  }
  __device__ int32_t position(const TallRows& r, int row) const {
    return r.there(row) ? places[r.at(row)].position : 0;
  }

  // Of key heads, `head` counts keys and then values.
  __device__ void put_codes(const TallRows& r, int32_t head, float (&v)[64]) const {
    const GqaShape& s = c.shape;
    const auto lane = static_cast<int>(threadIdx.x % 32);
    const int32_t half = head < s.kv_heads ? 0 : 1;
    const int32_t key_head = head - half * s.kv_heads;
    auto* cache = static_cast<uint8_t*>(c.batch.cache);
    const int64_t block_bytes = fp8_block_bytes(s);
    const auto block_of = [&](int32_t at) { return cache + at / kGqaBlockTokens * block_bytes; };
    const auto index = [&](int row) { return entry(r, row); };
    tall_round(v);
    const float upper = fp8_scale(scale_of(tall_largest<0>(v), false));
    const float lower = fp8_scale(scale_of(tall_largest<1>(v), false));
    uint8_t* staged = r.staged + lane / 4 * kTallPitch + lane % 4 * 2;
    __syncwarp();
    tall_stage_head<0>(v, upper, staged);
    tall_stage_head<1>(v, lower, staged + 8 * kTallPitch);
    __syncwarp();
    copy_rows(r, index, [&](int32_t at) {
      return block_of(at) + fp8_codes_at(s, at % kGqaBlockTokens, key_head, half);
    });
    if (lane % 4 > 1) return;
    const int32_t at = entry(r, lane / 4 + lane % 4 * 8);
    if (at < 0) return;
    *reinterpret_cast<Fp8Scale*>(block_of(at) +
                                 fp8_scale_at(s, at % kGqaBlockTokens, key_head, half)) =
        __float2bfloat16_rn(lane % 4 == 0 ? upper : lower);
  }

  __device__ void put(const TallRows& r, int32_t head, const float (&v)[64]) const {
    const GqaShape& s = c.shape;
    const auto lane = static_cast<int>(threadIdx.x % 32);
    const bool query = head < s.heads;
    const int64_t stride = int64_t{query ? s.heads : 2 * s.kv_heads} * kTallHeadDims * 2;
    auto* data = static_cast<uint8_t*>(query ? c.queries : c.batch.cache) +
                 (query ? head : head - s.heads) * kTallHeadDims * 2;
    const auto index = [&](int row) -> int32_t {
      if (!query) return entry(r, row);
      return r.there(row) ? static_cast<int32_t>(r.at(row)) : -1;
    };
    auto* staged =
        reinterpret_cast<__nv_bfloat16*>(r.staged + lane % 16 * kTallPitch) + lane / 16 * 8;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      __syncwarp();
#pragma unroll
      for (int j = 0; j < 8; j += 2) {
        const float* x = v + 32 * half + 4 * j;
        const uint32_t words[4] = {bf16_pair(x[0], x[1]), bf16_pair(x[2], x[3]),
                                   bf16_pair(x[4], x[5]), bf16_pair(x[6], x[7])};
        stage_rows(staged + j * 8, words);
      }
      __syncwarp();
      copy_rows(r, index, [&](int32_t at) { return data + at * stride + half * kTallHeadDims; });
    }
  }

  // A tile's heads are all turned, or none is. One after another by the same instructions: those of
  // a kernel's end are not in the cache.
  template <int kBoxes>
  __device__ void operator()(const TallRows& r, int32_t tile, float (&sums)[kBoxes][64]) const {
    const GqaShape& s = c.shape;
    const auto row = static_cast<int>(threadIdx.x % 32 / 4);
    int32_t head = tile * kBoxes;
#pragma unroll
    for (int box = 0; box < kBoxes; ++box) tall_round(sums[box]);
    if (head < s.heads + s.kv_heads) {
      tall_turn<0>(c.batch, position(r, row), sums);
      tall_turn<1>(c.batch, position(r, row + 8), sums);
    }
#pragma unroll 1
    for (int box = 0; box < kBoxes; ++box, ++head) {
      if (head >= s.heads && c.batch.cache_format == Format::kFp8) {
        put_codes(r, head - s.heads, sums[0]);
      } else {
        put(r, head, sums[0]);
      }
#pragma unroll
      for (int i = 0; i < 64; ++i) sums[0][i] = sums[kBoxes - 1][i];
    }
  }
};

}  // namespace fathom::kernels
