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
inline constexpr int32_t kGqaManyEach = 12;   // streams a block: one more is little

// What a step's streams are, in granules.
struct GqaStreams {
  int32_t count = 0;
  int32_t all = 0;       // of all of them
  int32_t shortest = 0;  // of one
  int32_t longest = 0;
};

// Whether blocks of threads take whole streams, one after another: nothing is then to be put
// together, and who is slow takes fewer. Not where the last ones would keep few blocks busy for
// long: where one is longer than a block's part, or blocks have few each, and those of several
// lengths or one more for some.
constexpr bool takes_whole_streams(const GqaStreams& s, int32_t blocks) {
  if (s.count == 0 || int64_t{s.longest} * blocks * 16 > int64_t{s.all} * 17) return false;
  const int32_t each = (s.count + blocks - 1) / blocks;
  if (each > kGqaManyEach) return int64_t{s.longest} * s.count * 2 <= int64_t{s.all} * 3;
  const bool even = int64_t{each} * blocks * 16 <= int64_t{s.count} * 17;
  return even && int64_t{s.longest} * 4 <= int64_t{s.shortest} * 5;
}

// (token, head) pairs of a row that share a key head lie in tiles. A stream is the cached tokens of
// a row as one key head and one tile see them; a block of threads takes whole streams in turn, or
// an equal share of all streams laid end to end, so that it cuts at most two of them.
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
