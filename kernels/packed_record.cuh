// A record of packed weights: four parts of 16 rows, a warp's each, then the exceptions. In a part
// a lane has what the tensor core's left side wants of it, 16 pairs of numbers: pair 4 k + 2 c + r
// is of row lane / 4 + 8 r and of columns 16 k + 8 c + lane % 4 * 2 and the next. In a gated
// matrix rows 0 to 7 of a part are the gate's, rows 8 to 15 their partners.
#pragma once

#include <cstdint>

#include "packed_number.h"
#include "packed_plan.h"

namespace fathom::kernels {

inline constexpr int kPackedPairs = 16;           // of a lane
inline constexpr int kPackedPartBytes = 3 * 512;  // [2][32 lanes][16]: signs and mantissas; codes
inline constexpr uint32_t kNumberMask = 0x807F807FU;  // sign and mantissa of both halves of a pair
inline constexpr uint32_t kCodeMask = 0x07800780U;
inline constexpr uint32_t kExponents = kPackedExponent << 7 | kPackedExponent << 23;
inline constexpr uint32_t kNoException = 0xFFFFU;

// What a lane has of a part, as it lies in memory: in word w of `numbers` pair 2 w as it is, and
// pair 2 w + 1 eight bits to the right; in a word of `codes` four pairs' codes.
struct PackedLane {
  uint32_t numbers[8];
  uint32_t codes[4];
};

// The codes of pair i of four, moved to their places in the pair (other bits are others').
__device__ inline uint32_t placed_codes(uint32_t word, int i) {
  switch (i) {
    case 0: return word;
    case 1: return word >> 4;
    case 2: return word << 4;
    default: return __funnelshift_r(word, word, 8);
  }
}

// (a & mask) | b, one instruction.
__device__ inline uint32_t masked_or(uint32_t a, uint32_t mask, uint32_t b) {
  uint32_t d;
  asm("lop3.b32 %0, %1, %2, %3, 0xEA;" : "=r"(d) : "r"(a), "r"(mask), "r"(b));
  return d;
}

__device__ inline void decode_lane(const PackedLane& lane, uint32_t (&pairs)[kPackedPairs]) {
#pragma unroll
  for (int i = 0; i < kPackedPairs; ++i) {
    const uint32_t word = lane.numbers[i / 2];
    const uint32_t numbers = i % 2 == 0 ? word : __funnelshift_l(word, word, 8);
    const uint32_t exponents =
        masked_or(placed_codes(lane.codes[i / 4], i % 4), kCodeMask, kExponents);
    pairs[i] = masked_or(numbers, kNumberMask, exponents);
  }
}

// The other way: the pairs have codes in the place of exponents.
__device__ inline void encode_lane(const uint32_t (&pairs)[kPackedPairs], PackedLane& lane) {
#pragma unroll
  for (int w = 0; w < 8; ++w) {
    const uint32_t odd = pairs[2 * w + 1] & kNumberMask;
    lane.numbers[w] = (pairs[2 * w] & kNumberMask) | __funnelshift_r(odd, odd, 8);
  }
#pragma unroll
  for (int u = 0; u < 4; ++u) {
    const uint32_t last = pairs[4 * u + 3] & kCodeMask;
    lane.codes[u] = (pairs[4 * u] & kCodeMask) | (pairs[4 * u + 1] & kCodeMask) << 4 |
                    (pairs[4 * u + 2] & kCodeMask) >> 4 | __funnelshift_l(last, last, 8);
  }
}

// An exception: the number in the upper half, its place in the lower.
__device__ inline uint32_t exception_of(uint16_t number, int part, int lane, int pair, int half) {
  return static_cast<uint32_t>(number) << 16 |
         static_cast<uint32_t>(part << 10 | pair << 6 | half << 5 | lane);
}

// Puts the exceptions of a warp's part in their places. `mine`: a lane's of the record's list.
__device__ inline void place_exceptions(uint32_t mine, int part, uint32_t (&pairs)[kPackedPairs]) {
  uint32_t lanes =
      __ballot_sync(0xFFFFFFFFU, (mine & 0xFFFFU) >> 10 == static_cast<uint32_t>(part));
  while (lanes != 0) {
    const uint32_t entry = __shfl_sync(0xFFFFFFFFU, mine, __ffs(lanes) - 1);
    lanes &= lanes - 1;
    const bool here = (entry & 31) == threadIdx.x % 32;
    const int pair = here ? static_cast<int>(entry >> 6 & 15) : kPackedPairs;
    const uint32_t order = (entry & 32) != 0 ? 0x7610 : 0x3276;  // upper or lower number
#pragma unroll
    for (int i = 0; i < kPackedPairs; ++i) {
      if (i == pair) pairs[i] = __byte_perm(pairs[i], entry, order);
    }
  }
}

// Words of shared memory.
__device__ inline uint32_t load_shared(uint32_t from) {
  uint32_t v;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(from) : "memory");
  return v;
}
__device__ inline void load_shared(uint32_t from, uint32_t* four) {
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(four[0]), "=r"(four[1]), "=r"(four[2]), "=r"(four[3])
               : "r"(from)
               : "memory");
}

}  // namespace fathom::kernels
