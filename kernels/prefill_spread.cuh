// Entries of an e4m3 cache (include/fathom/fp8_cache.h) as bf16, where the tensor cores' attention
// copies its tiles from: a slice of the rows' contexts, laid one behind the other in tiles of 128
// tokens. An entry's number is its code times its scale, rounded once. What lies past a row's end
// is left as it was.
#pragma once

#include <cuda_fp8.h>

#include "gqa_fp8_cache.cuh"
#include "number.cuh"
#include "prefill_rows.cuh"

namespace fathom::kernels {

inline constexpr int kSpreadThreads = 256;
inline constexpr int32_t kSpreadParts = 8;  // blocks that share a tile
inline constexpr int32_t kSpreadTokens = kPrefillKeyTile / kSpreadParts;

struct SpreadArgs {
  PrefillRows rows;
  const uint8_t* cache = nullptr;
  int32_t slice_begin = 0;
  __nv_bfloat16* out = nullptr;
};

// A block's tokens: of tile `tile` of a row, `count` of them from token `first` of the tile on.
struct SpreadPlace {
  const int32_t* table = nullptr;  // the row's blocks
  int64_t out_token = 0;           // in the slice, of the first one
  int32_t token = 0;               // in the row, of the first one
  int32_t count = 0;
};

__device__ inline SpreadPlace spread_place(const SpreadArgs& a) {
  const auto tile = static_cast<int32_t>(blockIdx.x) / kSpreadParts;
  const auto part = static_cast<int32_t>(blockIdx.x) % kSpreadParts;
  const PrefillPlace place = prefill_find<true>(a.rows, a.slice_begin + tile);
  SpreadPlace s;
  if (place.row < 0) return s;
  s.table = a.rows.block_table + a.rows.slot[place.row] * a.rows.table_stride;
  s.token = place.tile * kPrefillKeyTile + part * kSpreadTokens;
  s.out_token = int64_t{tile} * kPrefillKeyTile + part * kSpreadTokens;
  s.count = min(kSpreadTokens, a.rows.context[place.row] + a.rows.query[place.row] - s.token);
  return s;
}

// Two codes times their scale, as bf16.
__device__ inline uint32_t spread_pair(uint32_t codes, float scale) {
  const __half2_raw raw =
      __nv_cvt_fp8x2_to_halfraw2(static_cast<__nv_fp8x2_storage_t>(codes), __NV_E4M3);
  const float2 x = __half22float2(__half2(raw));
  return pack_pair(x.x * scale, x.y * scale);
}

__device__ inline uint4 spread_eight(uint32_t low, uint32_t high, float scale) {
  return uint4{spread_pair(low & 0xFFFFU, scale), spread_pair(low >> 16, scale),
               spread_pair(high & 0xFFFFU, scale), spread_pair(high >> 16, scale)};
}

// 16 codes to 32 bytes.
__device__ inline void spread_sixteen(const uint4& codes, float scale, __nv_bfloat16* to) {
  auto* words = reinterpret_cast<uint4*>(to);
  words[0] = spread_eight(codes.x, codes.y, scale);
  words[1] = spread_eight(codes.z, codes.w, scale);
}

// Which heads of an entry, and how many of them a launch takes.
struct SpreadHeads {
  int32_t kv_heads = 0;  // of the cache
  int32_t first_head = 0;
  int32_t heads = 0;  // taken
  int32_t head_dims = 0;
};

// Keys of the heads taken, then their values: [slice tokens, 2 * heads * head_dims].
__global__ void __launch_bounds__(kSpreadThreads)
    spread_heads_kernel(const __grid_constant__ SpreadArgs a, const SpreadHeads h) {
  const SpreadPlace place = spread_place(a);
  const int32_t units = 2 * h.heads * h.head_dims / 16;  // of a token
  const int32_t head_units = h.head_dims / 16;
  const int64_t head_codes = int64_t{2} * kPrefillBlockTokens * h.head_dims;  // of a block
  const int64_t head_bytes = head_codes + 2 * kPrefillBlockTokens * kFp8ScaleBytes;
#pragma unroll 4
  for (auto i = static_cast<int32_t>(threadIdx.x); i < place.count * units; i += kSpreadThreads) {
    const int32_t token = place.token + i / units;
    const int32_t unit = i % units;
    const int32_t which = unit / head_units;  // keys' heads, then values'
    const int32_t half = which / h.heads;
    const int32_t head = h.first_head + which % h.heads;
    const int32_t inside = token % kPrefillBlockTokens;
    const int32_t run = half * kPrefillBlockTokens + inside;
    const uint8_t* from =
        a.cache +
        (int64_t{place.table[token / kPrefillBlockTokens]} * h.kv_heads + head) * head_bytes;
    const auto* scales = reinterpret_cast<const Fp8Scale*>(from + head_codes);
    const uint4 word = *reinterpret_cast<const uint4*>(from + int64_t{run} * h.head_dims +
                                                       unit % head_units * 16);
    spread_sixteen(word, __bfloat162float(scales[run]),
                   a.out + (place.out_token + i / units) * (units * 16) + unit * 16);
  }
}

// Latents and rope keys: [slice tokens, 576]. An entry is 512 codes, four scales, 64 bf16.
__global__ void __launch_bounds__(kSpreadThreads)
    spread_latents_kernel(const __grid_constant__ SpreadArgs a) {
  constexpr int32_t kCodes = 512;
  constexpr int32_t kCodeUnits = kCodes / 16;
  constexpr int32_t kUnits = kCodeUnits + 8;  // and 8 numbers of the rope key each
  constexpr int32_t kScaleBytes = 16;
  constexpr int32_t kEntryBytes = kCodes + kScaleBytes + 128;
  const SpreadPlace place = spread_place(a);
  for (auto i = static_cast<int32_t>(threadIdx.x); i < place.count * kUnits; i += kSpreadThreads) {
    const int32_t token = place.token + i / kUnits;
    const int32_t unit = i % kUnits;
    const int64_t at = int64_t{place.table[token / kPrefillBlockTokens]} * kPrefillBlockTokens +
                       token % kPrefillBlockTokens;
    const uint8_t* entry = a.cache + at * kEntryBytes;
    __nv_bfloat16* to = a.out + (place.out_token + i / kUnits) * (kCodes + 64);
    if (unit < kCodeUnits) {
      const float scale = *reinterpret_cast<const float*>(entry + kCodes + unit / 8 * 4);
      spread_sixteen(*reinterpret_cast<const uint4*>(entry + unit * 16), scale, to + unit * 16);
    } else {
      const int32_t eight = unit - kCodeUnits;
      *reinterpret_cast<uint4*>(to + kCodes + eight * 8) =
          *reinterpret_cast<const uint4*>(entry + kCodes + kScaleBytes + eight * 16);
    }
  }
}

}  // namespace fathom::kernels
