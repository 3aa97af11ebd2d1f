// Decode attention over FP8 latents for up to 16 (token, head) pairs: entries of 512 e4m3 codes, a
// scale for each 128 of them, and 64 bf16 of the rope's key. Two warpgroups make bf16 tiles of what
// a thread copies; the warpgroup that computes is the narrow kernel's. See
// docs/kernels/mla_decode.md.
#pragma once

#include <cuda_fp8.h>

#include "mla_decode_narrow.cuh"

namespace fathom::kernels {

inline constexpr int kFp8Threads = 512;   // compute, two that convert, one that copies
inline constexpr uint32_t kFp8Parts = 4;  // of a block, a copy each
inline constexpr uint32_t kFp8PartTokens = kMlaBlockTokens / kFp8Parts;
inline constexpr uint32_t kFp8PartBytes = kFp8PartTokens * kMlaFp8EntryBytes;

struct Fp8Shared {
  NarrowShared<1> narrow;  // its blocks are filled by the warpgroups that convert
  alignas(128) uint8_t raw[kFp8Parts][kFp8PartBytes];
  uint64_t raw_full[kFp8Parts];
  uint64_t raw_free[kFp8Parts];
};

__device__ inline void copy_bytes(void* to, const void* from, uint32_t bytes, uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1], %2, [%3], %4;" ::"r"(shared_address(to)),
      "l"(from), "r"(bytes), "r"(shared_address(barrier)), "l"(kEvictFirst)
      : "memory");
}

__device__ inline void fp8_copy(const MlaDecodeArgs& a, Fp8Shared& s, const uint8_t* cache,
                                const CUtensorMap* queries) {
  const int32_t tile = static_cast<int32_t>(blockIdx.x) % a.tiles;
  NarrowShared<1>& n = s.narrow;
  RingPlace<kFp8Parts> raw;
  RingPlace<2> query;
  EarlierKernels earlier;
  for_each_piece(a, static_cast<int32_t>(blockIdx.x) / a.tiles, [&](const MlaPiece& piece) {
    const auto copy_row_queries = [&] {
      earlier.wait();
      barrier_wait(&n.query_free[query.index], query.phase ^ 1U);
      barrier_expect(&n.query_full[query.index], NarrowShared<1>::kQueryBytes);
      copy_queries(n.queries[query.index], queries, &n.query_full[query.index],
                   piece.of.first * a.heads + tile * kNarrowPairs);
      query.advance();
    };
    const int32_t* table = a.rows.block_table + piece.of.slot * a.rows.table_stride;
    const int32_t ask = earlier.queries_at(piece, NarrowShared<1>::kStages);
    int32_t block = table[piece.begin];
    for (int32_t t = piece.begin; t < piece.end; ++t) {
      const int32_t next = t + 1 < piece.end ? table[t + 1] : 0;
      if (t == ask) copy_row_queries();
      for (int part = 0; part < static_cast<int>(kFp8Parts); ++part) {
        barrier_wait(&s.raw_free[raw.index], raw.phase ^ 1U);
        barrier_expect(&s.raw_full[raw.index], kFp8PartBytes);
        copy_bytes(s.raw[raw.index], cache + (int64_t{block} * kFp8Parts + part) * kFp8PartBytes,
                   kFp8PartBytes, &s.raw_full[raw.index]);
        raw.advance();
      }
      block = next;
    }
    if (ask == piece.end) copy_row_queries();
  });
  earlier.wait();
}

// Two codes times their scale, as bf16.
__device__ inline uint32_t scaled_pair(uint32_t codes, float scale) {
  const __half2_raw raw =
      __nv_cvt_fp8x2_to_halfraw2(static_cast<__nv_fp8x2_storage_t>(codes), __NV_E4M3);
  const float2 x = __half22float2(__half2(raw));
  return pack_bf16(x.x * scale, x.y * scale);
}

__device__ inline uint4 scaled_codes(uint32_t low, uint32_t high, float scale) {
  return uint4{scaled_pair(low & 0xFFFFU, scale), scaled_pair(low >> 16, scale),
               scaled_pair(high & 0xFFFFU, scale), scaled_pair(high >> 16, scale)};
}

// A part of a block to bf16 tiles under the 128-byte swizzle. A warp takes two tokens; a lane 16
// columns of each. Lanes of odd tiles store their second 8 columns first: eight lanes meet all
// banks.
__device__ inline void convert_part(const uint8_t* raw, uint8_t* block, int part) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int warp = static_cast<int>(threadIdx.x - 128) / 32;
  const int odd = lane / 4 % 2;
  constexpr int kEach = static_cast<int>(kFp8PartTokens) / 8;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    const int inside = warp * kEach + i;
    const int token = part * static_cast<int>(kFp8PartTokens) + inside;
    const uint8_t* entry = raw + inside * kMlaFp8EntryBytes;
    const uint4 codes = *reinterpret_cast<const uint4*>(entry + lane * 16);
    const float scale = *reinterpret_cast<const float*>(entry + kMlaLatent + lane / 8 * 4);
    const uint4 low = scaled_codes(codes.x, codes.y, scale);
    const uint4 high = scaled_codes(codes.z, codes.w, scale);
    uint8_t* row = block + lane / 4 * static_cast<int>(kTileBytes) + token * 128;
    const int unit = lane % 4 * 2;
    *reinterpret_cast<uint4*>(row + ((unit + odd) ^ (token & 7)) * 16) = odd != 0 ? high : low;
    *reinterpret_cast<uint4*>(row + ((unit + 1 - odd) ^ (token & 7)) * 16) = odd != 0 ? low : high;
  }
  if (lane >= kEach * 8) return;
  const int inside = warp * kEach + lane / 8;
  const int token = part * static_cast<int>(kFp8PartTokens) + inside;
  const uint4 rope = *reinterpret_cast<const uint4*>(raw + inside * kMlaFp8EntryBytes + kMlaLatent +
                                                     16 + lane % 8 * 16);
  *reinterpret_cast<uint4*>(block + 8 * static_cast<int>(kTileBytes) + token * 128 +
                            ((lane % 8) ^ (token & 7)) * 16) = rope;
}

__device__ inline void fp8_convert(const MlaDecodeArgs& a, Fp8Shared& s) {
  NarrowShared<1>& n = s.narrow;
  RingPlace<kFp8Parts> raw;
  RingPlace<NarrowShared<1>::kStages> stage;
  for_each_piece(a, static_cast<int32_t>(blockIdx.x) / a.tiles, [&](const MlaPiece& piece) {
    for (int32_t t = piece.begin; t < piece.end; ++t) {
      barrier_wait(&n.block_free[stage.index], stage.phase ^ 1U);
      for (int part = 0; part < static_cast<int>(kFp8Parts); ++part) {
        barrier_wait(&s.raw_full[raw.index], raw.phase);
        convert_part(s.raw[raw.index], n.blocks[stage.index], part);
        barrier_arrive_of_warp<true>(&s.raw_free[raw.index]);
        raw.advance();
      }
      fence_for_async();
      barrier_arrive(&n.block_full[stage.index]);
      stage.advance();
    }
  });
}

__global__ void __launch_bounds__(kFp8Threads, 1)
    mla_fp8_kernel(const uint8_t* cache, const __grid_constant__ CUtensorMap queries,
                   const __grid_constant__ MlaDecodeArgs a) {
  extern __shared__ uint8_t raw[];
  auto& s = *reinterpret_cast<Fp8Shared*>(raw + (0U - shared_address(raw)) % 1024U);
  NarrowShared<1>& n = s.narrow;
  if (threadIdx.x == 0) {
    for (uint32_t i = 0; i < 2; ++i) {
      barrier_init(&n.block_full[i], 256);
      barrier_init(&n.block_free[i], 4);
      barrier_init(&n.query_full[i], 1);
      barrier_init(&n.query_free[i], 4);
    }
    for (uint32_t i = 0; i < kFp8Parts; ++i) {
      barrier_init(&s.raw_full[i], 1);
      barrier_init(&s.raw_free[i], 8 * kWarpArrivals<true>);
    }
    barrier_init_done();
  }
  let_next_kernel_start();
  __syncthreads();
  if (threadIdx.x < 128) {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
    narrow_compute<1>(a, n);
  } else if (threadIdx.x < 384) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 104;");
    fp8_convert(a, s);
  } else {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
    if (threadIdx.x == 384) fp8_copy(a, s, cache, &queries);
  }
}

}  // namespace fathom::kernels
