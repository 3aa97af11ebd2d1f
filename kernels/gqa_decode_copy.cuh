// Keys and values on their way to the warps that attend to them: what lies in shared memory, and
// the thread that copies. A ring is one warp's (bf16) or, of codes, two warps', whose 64 tokens one
// copy brings.
#pragma once

#include "gqa_decode_fp8.cuh"
#include "ring_place.cuh"

namespace fathom::kernels {

template <int kDims, int kGroups, bool kFp8>
struct GqaShared {
  static constexpr uint32_t kPairs = 8 * kGroups;
  static constexpr uint32_t kStages = kFp8 && kGroups == 1 ? 5 : 3;
  static constexpr uint32_t kSharing = kFp8 ? 2 : 1;  // warps of a ring
  static constexpr uint32_t kRings = kGqaWarps / kSharing;
  static constexpr uint32_t kRingTokens = kSharing * kGqaGranuleTokens;
  static constexpr uint32_t kGranuleBytes = kFp8 ? kGqaCodeBytes<kDims> : kGqaStageBytes<kDims>;
  static constexpr uint32_t kCopyBytes = kSharing * kGranuleBytes;
  // They lie in the place of values: each eight of pairs as sum_at says.
  static constexpr uint32_t kSumBytes = kSharing * kPairs * kDims * 4;
  static constexpr uint32_t kStageBytes = kCopyBytes > kSumBytes ? kCopyBytes : kSumBytes;

  alignas(1024) uint8_t ring[kRings][kStages][kStageBytes];
  alignas(128) Fp8Scale scales[kFp8 ? kRings : 1][kFp8 ? kStages : 1][kRingTokens];
  float2 statistics[2][kGqaWarps][kPairs];
  float factor[2][kGqaWarps];  // e4m3 cache: that a warp's sums are still to be multiplied by
  uint64_t full[kRings][kStages];
  uint64_t free[kRings][kStages];
  uint32_t place[2][kGqaWarps];  // the stage where a warp left its sums
  int32_t last;
  GqaWork work;

  // A warp's tokens, or what it made of them.
  __device__ uint8_t* granule(uint32_t warp, uint32_t stage) {
    return ring[warp / kSharing][stage] + warp % kSharing * kGranuleBytes;
  }
  __device__ const uint8_t* granule(uint32_t warp, uint32_t stage) const {
    return ring[warp / kSharing][stage] + warp % kSharing * kGranuleBytes;
  }
  __device__ const Fp8Scale* scales_of(uint32_t warp, uint32_t stage) const {
    return scales[warp / kSharing][stage] + warp % kSharing * kGqaGranuleTokens;
  }
};

template <int kDims, int kGroups, bool kFp8>
using PlaceOf = RingPlace<GqaShared<kDims, kGroups, kFp8>::kStages>;

// A stage's tokens of a block: the keys (half 0) or values (half 1) of one key head.
__device__ inline void copy_granule(void* to, const CUtensorMap* map, uint64_t* barrier,
                                    int32_t token, int32_t column_tile, int32_t half,
                                    int32_t block, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1, {%3, %4, %5, %6, %7}], [%2], %8;" ::"r"(shared_address(to)),
      "l"(map), "r"(shared_address(barrier)), "r"(0), "r"(token), "r"(column_tile), "r"(half),
      "r"(block), "l"(policy)
      : "memory");
}

// The stage's scales, one for each token.
template <uint32_t kBytes>
__device__ void copy_scales(void* to, const void* from, uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, "
      "[%3];" ::"r"(shared_address(to)),
      "l"(from), "n"(kBytes), "r"(shared_address(barrier))
      : "memory");
}

// Bytes of the codes or numbers of that many tokens, in eights.
template <int kDims, bool kFp8>
__device__ uint32_t eights_bytes(int32_t tokens) {
  return static_cast<uint32_t>(tokens + 7) / 8 * 8 * kDims * (kFp8 ? 1 : 2);
}

// The first `tokens` of a stage, in eights, where not all are the row's.
template <int kDims, bool kFp8>
__device__ __noinline__ void copy_eights(uint8_t* to, const CUtensorMap* map, uint64_t* barrier,
                                         int32_t token, int32_t column_tile, int32_t half,
                                         int32_t block, uint64_t policy, int32_t tokens) {
  constexpr int32_t kTiles = kFp8 ? 1 : kDims / 64;
  constexpr uint32_t kEightBytes = kFp8 ? 8 * kDims : 8 * 128;
#pragma unroll 1
  for (int32_t i = 0; i * 8 < tokens; ++i) {
#pragma unroll
    for (int32_t t = 0; t < kTiles; ++t)
      copy_granule(to + t * kGqaTileBytes + i * kEightBytes, map, barrier, token + 8 * i,
                   column_tile + t, half, block, policy);
  }
}

// Keys and values of a share. Those that are older than the step are asked for before the kernels
// before this one have ended.
template <int kDims, int kGroups, bool kFp8>
__device__ void copy_runs(const GqaDecodeArgs& a, GqaShared<kDims, kGroups, kFp8>& s,
                          const CUtensorMap* map, const CUtensorMap* eights) {
  constexpr uint64_t kEvictFirst = 0x12F0000000000000;
  constexpr uint64_t kEvictNormal = 0x1000000000000000;
  const uint64_t policy = a.tiles == 1 ? kEvictFirst : kEvictNormal;
  using Shared = GqaShared<kDims, kGroups, kFp8>;
  constexpr auto kTokens = static_cast<int32_t>(Shared::kRingTokens);
  constexpr uint32_t kScaleBytes = kFp8 ? kTokens * kFp8ScaleBytes : 0;
  PlaceOf<kDims, kGroups, kFp8> places[Shared::kRings];
  bool waited = false;
  for_each_run<true>(a, s.work, [&](const GqaRun& run) {
    const int32_t seen = s.work.seen[run.row];
    const int32_t old = a.rows.context[run.row];
    const int32_t blocks = (seen + kGqaBlockTokens - 1) / kGqaBlockTokens;
    const int32_t* table = a.rows.block_table + s.work.slot[run.row] * a.rows.table_stride;
    const int32_t head = run.stream / a.tiles;
    const int32_t column_tile = kFp8 ? head : head * (kDims / 64);
    const auto block_at = [&](int32_t i) { return i < blocks ? table[i] : 0; };
    int32_t next[2] = {block_at(2 * run.begin), block_at(2 * run.begin + 1)};
    for (int32_t c = run.begin; c < run.end; ++c) {
      const int32_t block[2] = {next[0], next[1]};
      if (c + 1 < run.end) {
        next[0] = block_at(2 * c + 2);
        next[1] = block_at(2 * c + 3);
      }
#pragma unroll
      for (uint32_t r = 0; r < Shared::kRings; ++r) {
        const int32_t in_chunk = static_cast<int32_t>(r) * kTokens;
        const int32_t token = c * kGqaChunkTokens + in_chunk;
        if (token >= seen) continue;
        if (!waited && token + kTokens > old) {
          waited = true;
          wait_for_earlier_kernels();
          // What they wrote to the cache, for the copy engine's eyes.
          asm volatile("fence.proxy.async.global;" ::: "memory");
        }
        const int32_t from = block[in_chunk / kGqaBlockTokens];
        const int32_t inside = in_chunk % kGqaBlockTokens;
        const bool whole = token + kTokens <= seen;
        const uint32_t bytes =
            whole ? Shared::kCopyBytes : eights_bytes<kDims, kFp8>(seen - token);
#pragma unroll
        for (int32_t half = 0; half < 2; ++half) {
          PlaceOf<kDims, kGroups, kFp8>& at = places[r];
          uint64_t* full = &s.full[r][at.index];
          barrier_wait(&s.free[r][at.index], at.phase ^ 1U);
          barrier_expect(full, bytes + kScaleBytes);
          if constexpr (kFp8) {
            const Fp8Scale* scales = a.scales + from * a.scale_stride +
                                     head * a.scale_head_stride + half * kGqaBlockTokens + inside;
            copy_scales<kScaleBytes>(s.scales[r][at.index], scales, full);
          }
          uint8_t* stage = s.ring[r][at.index];
          if (whole) {
            copy_granule(stage, map, full, inside, column_tile, half, from, policy);
          } else {
            copy_eights<kDims, kFp8>(stage, eights, full, inside, column_tile, half, from, policy,
                                     seen - token);
          }
          at.advance();
        }
      }
    }
  });
}

}  // namespace fathom::kernels
