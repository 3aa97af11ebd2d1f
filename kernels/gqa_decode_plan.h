// How grouped-query decode attention is cut over the GPU, and what that takes. No CUDA here: the
// chooser (src/ops/cuda/choose_gqa) is tested without.
#pragma once

#include <cstdint>

namespace fathom::kernels {

inline constexpr int32_t kGqaBlockTokens = 64;    // of the cache
inline constexpr int32_t kGqaGranuleTokens = 32;  // a warp's share of a chunk; the unit of cost
inline constexpr int32_t kGqaWarps = 4;           // that compute
inline constexpr int32_t kGqaChunkTokens = kGqaWarps * kGqaGranuleTokens;
inline constexpr int32_t kGqaSegmentChunks = 16;
inline constexpr int32_t kGqaSegmentTokens = kGqaSegmentChunks * kGqaChunkTokens;
inline constexpr int32_t kGqaFewBlocksMin = 8;  // of threads that share a row's key head in gqa_few
inline constexpr int32_t kGqaFewBlocksMax = kGqaSegmentChunks;
inline constexpr int32_t kGqaFewHeadsMax = 32;  // rows times key heads, in gqa_few
inline constexpr int32_t kGqaRowsMax = 1024;  // a block keeps a count for each

// How many of `blocks` get equal shares of that many streams, all as long: fewer than all where
// that leaves streams whole and few blocks (one of 17) without. Then nothing is to be put together.
constexpr int32_t blocks_of_whole(int32_t streams, int32_t blocks) {
  const int32_t each = (streams + blocks - 1) / blocks;
  const bool whole = streams % each == 0 && streams / each * 17 >= blocks * 16;
  return whole ? streams / each : blocks;
}

// (token, head) pairs of a row that share a key head lie in tiles. A stream is the cached tokens of
// a row as one key head and one tile see them; a block of threads takes an equal share of all
// streams laid end to end, so that it cuts at most two of them.
struct GqaDecodePlan {
  int32_t pair_tile = 0;     // 8 or 16; 0: no kernel for this problem
  int32_t tiles = 0;         // of pairs, a row and key head
  int32_t pairs = 0;         // of a tile that are kept in partial results
  int32_t blocks = 0;        // of threads
  int32_t segments_max = 0;  // of a stream
  bool few = false;          // gqa_few may run it, in as many blocks

  // Partial results of a block: chunks of the segments that it shares with others before it and
  // after it, whole segments of a stream that began before it, and two more.
  int32_t slots_per_block() const { return 2 * kGqaSegmentChunks + segments_max + 2; }
  int64_t slots() const { return int64_t{blocks} * slots_per_block(); }
};

}  // namespace fathom::kernels
