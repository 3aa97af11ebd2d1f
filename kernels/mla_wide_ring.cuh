// The wide decode-attention kernel's shared memory and its copies: cached blocks, and queries where
// a row begins, through a ring of three slots, each half of a slot filled by a thread of its own.
#pragma once

#include "mla_decode_common.cuh"
#include "mla_products.cuh"

namespace fathom::kernels {

inline constexpr int kWidePairs = 64;
inline constexpr uint32_t kWideSlots = 3;

// Whether the phase of this parity is complete.
__device__ inline bool barrier_over(uint64_t* barrier, uint32_t parity) {
  uint32_t over;
  asm volatile(
      "{\n.reg .pred done;\n"
      "mbarrier.test_wait.parity.shared::cta.b64 done, [%1], %2;\n"
      "selp.u32 %0, 1, 0, done;\n}\n"
      : "=r"(over)
      : "r"(shared_address(barrier)), "r"(parity)
      : "memory");
  return over != 0;
}

// A slot holds a block of the cache, or a piece's queries before its blocks. A block's ninth tile,
// the rope's keys, makes room for the block's weights.
using WidePlace = RingPlace<kWideSlots>;

// Where a role stands in its part. In shared memory: no role has registers to spare.
struct WideWalk {
  int32_t row;
  int32_t first;  // token
  bool whole;     // the row is in no other part
  int32_t t;      // for copies: the block that is next; before the piece's first one: its queries
  int32_t begin;
  int32_t end;  // 0: nothing is left
  int32_t seen_by_all;
  int32_t seen;
  int64_t table;  // where the row's block table begins
  int32_t block;  // for copies: that of t, or the piece's first one
};

// What a piece's sums are divided by, and relative to.
struct WideResult {
  float peaks[kWidePairs];
  float totals[kWidePairs];
};

// Barriers of a half are those of tiles 0 to 3, and of tiles 4 to 8. Registers hold the queries but
// for the last 16 columns of the latents and the rope's part.
struct WideShared {
  uint8_t slots[kWideSlots][9 * kTileBytes];
  union {
    uint8_t rope[kTileBytes];
    WideResult result;  // when the last block's scores are there
  };
  uint8_t last_step[kWidePairs * 32];  // eight rows by 16 bytes after another, both columns of them
  int8_t fades[kWideSlots][kWidePairs];  // what sums before this block are worth after it, base 2
  uint32_t rises[kWideSlots][4];         // whether a warp's rows have other fades than 0
  uint64_t full[kWideSlots][2];
  uint64_t free[kWideSlots][2];
  uint64_t weights[kWideSlots];
  uint64_t result_full;
  uint64_t result_free;
  WideWalk scored;
  WideWalk summed[2];
  WideWalk copied[2];
  WidePlace copy_place[2];
};
static_assert(sizeof(WideShared) <= 227 * 1024);

// Every lane of a warp arrives in its own block of threads, so that tools that follow arrivals by
// thread (racecheck) know of each one's loads and stores; one lane for its warp in the other block
// of a cluster, whose copies come here too.
inline constexpr uint32_t kWideArrivals = 4 * kWarpArrivals<true>;  // of a warpgroup

template <int kCluster>
__device__ void wide_init(WideShared& s) {
  for (uint32_t i = 0; i < kWideSlots; ++i) {
    for (int half = 0; half < 2; ++half) {
      barrier_init(&s.full[i][half], 1);
      barrier_init(&s.free[i][half], kWideArrivals + 4 * (kCluster - 1));
    }
    barrier_init(&s.weights[i], kWideArrivals);
  }
  barrier_init(&s.result_full, kWideArrivals);
  barrier_init(&s.result_free, 2 * kWideArrivals);
  barrier_init_done();
}

// To the part's next piece after row `row`, whose queries come first.
__device__ inline void wide_next_piece(const MlaDecodeArgs& a, WideWalk& walk, int32_t row) {
  const MlaPart part = a.schedule.parts[static_cast<int32_t>(blockIdx.x) / a.tiles];
  walk.end = 0;
  while (++row <= part.row_end) {
    const MlaRow of = row == part.row_begin ? part.row : mla_row(a.rows, row);
    const int32_t begin = row == part.row_begin ? part.tile_begin : 0;
    const int32_t end = row == part.row_end ? part.tile_end : blocks_of_row(of);
    if (begin >= end) continue;
    walk.row = row;
    walk.t = begin - 1;
    walk.begin = begin;
    walk.end = end;
    walk.first = of.first;
    walk.whole = begin == 0 && end == blocks_of_row(of);
    walk.seen_by_all = of.context + 1;
    walk.seen = of.context + of.query;
    walk.table = of.slot * a.rows.table_stride;
    walk.block = a.rows.block_table[walk.table + begin];
    return;
  }
}

__device__ inline void wide_first_piece(const MlaDecodeArgs& a, WideWalk& walk) {
  wide_next_piece(a, walk,
                  a.schedule.parts[static_cast<int32_t>(blockIdx.x) / a.tiles].row_begin - 1);
}

// Waits for a slot's half, and says how much comes to it.
template <int kHalf>
__device__ void wide_expect(WideShared& s, const WidePlace& place) {
  barrier_wait(&s.free[place.index][kHalf], place.phase ^ 1U);
  if constexpr (kHalf == 1) barrier_wait(&s.free[place.index][0], place.phase ^ 1U);  // weights
  barrier_expect(&s.full[place.index][kHalf], (4 + kHalf) * kTileBytes);
}

// This block of threads' share of half of a cached block, which goes to both of a cluster.
template <int kCluster, int kHalf>
__device__ void wide_copy_block(WideShared& s, const CUtensorMap* cache, int32_t block, int32_t t,
                                const WidePlace& place) {
  wide_expect<kHalf>(s, place);
  const int32_t rank = static_cast<int32_t>(blockIdx.x) % kCluster;
  uint8_t* slot = s.slots[place.index];
  uint64_t* full = &s.full[place.index][kHalf];
  constexpr int kShare = 4 / kCluster;
#pragma unroll
  for (int i = 0; i < kShare; ++i) {
    const int tile = kHalf * 4 + rank * kShare + i;
    copy_tile_of_block<kCluster>(slot + tile * kTileBytes, cache, full, tile, block, kEvictFirst);
  }
  if (kHalf == 1 && (kCluster == 1 || rank == t % 2))
    copy_tile_of_block<kCluster>(slot + 8 * kTileBytes, cache, full, 8, block, kEvictFirst);
}

template <int kHalf>
__device__ void wide_copy_queries(const MlaDecodeArgs& a, WideShared& s, const CUtensorMap* queries,
                                  int32_t token, const WidePlace& place) {
  const int32_t tile = static_cast<int32_t>(blockIdx.x) % a.tiles;
  const int32_t first = token * a.heads + tile * kWidePairs;
  wide_expect<kHalf>(s, place);
#pragma unroll
  for (int i = kHalf * 4; i < 4 + kHalf * 5; ++i)
    copy_query_tile(s.slots[place.index] + i * kTileBytes, queries, &s.full[place.index][kHalf], i,
                    first);
}

// To block t of the piece, or to the next piece.
__device__ inline void wide_advance(const MlaDecodeArgs& a, WideWalk& next, int32_t t) {
  next.t = t;
  if (t == next.end) {
    wide_next_piece(a, next, next.row);
  } else if (t > next.begin) {
    next.block = a.rows.block_table[next.table + t];
  }
}

// Copies what is next, if anything is, to the next slot.
template <int kCluster, int kHalf>
__device__ void wide_copy_next(const MlaDecodeArgs& a, WideShared& s, const CUtensorMap* cache,
                               const CUtensorMap* queries) {
  WideWalk& next = s.copied[kHalf];
  if (next.end == 0) return;
  WidePlace place = s.copy_place[kHalf];
  if (next.t < next.begin) {
    wide_copy_queries<kHalf>(a, s, queries, next.first, place);
  } else {
    wide_copy_block<kCluster, kHalf>(s, cache, next.block, next.t, place);
  }
  place.advance();
  s.copy_place[kHalf] = place;
  wide_advance(a, next, next.t + 1);
}

// Fills the ring. The first piece's queries have the first slot, but blocks that hold no token of
// this step are asked for before them, while the kernel that makes the queries still runs.
template <int kCluster, int kHalf>
__device__ void wide_copy_first(const MlaDecodeArgs& a, WideShared& s, const CUtensorMap* cache,
                                const CUtensorMap* queries) {
  WideWalk& next = s.copied[kHalf];
  if (next.end == 0) {
    s.copy_place[kHalf] = WidePlace{};
    wait_for_earlier_kernels();
    return;
  }
  const int32_t old = max((next.seen_by_all - 1) / kMlaBlockTokens, next.begin);
  const int32_t early = min(min(next.begin + 2, old), next.end) - next.begin;
  WidePlace place;
  place.advance();
  for (int32_t i = 0; i < early; ++i) {
    wide_copy_block<kCluster, kHalf>(s, cache, a.rows.block_table[next.table + next.begin + i],
                                     next.begin + i, place);
    place.advance();
  }
  wait_for_earlier_kernels();
  wide_copy_queries<kHalf>(a, s, queries, next.first, WidePlace{});
  s.copy_place[kHalf] = place;
  wide_advance(a, next, next.begin + early);
  for (int32_t i = early; i < 2; ++i) wide_copy_next<kCluster, kHalf>(a, s, cache, queries);
}

// Until nothing is under way to this block of threads' barriers: the other of a cluster arrives
// too.
template <int kHalf>
__device__ void wide_wait_for_all(WideShared& s) {
  WidePlace place = s.copy_place[kHalf];
  for (uint32_t i = 0; i < kWideSlots; ++i) {
    barrier_wait(&s.free[place.index][kHalf], place.phase ^ 1U);
    place.advance();
  }
}

}  // namespace fathom::kernels
