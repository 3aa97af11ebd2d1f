// What the decode-attention kernels share: their arguments, the walk over a part's pieces, and the
// copies of tiles.
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>

#include "async_copy.cuh"
#include "mla_cuts.h"
#include "mla_decode.h"
#include "number.cuh"
#include "ring_place.cuh"

namespace fathom::kernels {

struct MlaDecodeArgs {
  MlaDecodeRows rows;
  MlaSchedule schedule;
  int32_t heads = 0;
  int32_t tiles = 0;        // of pairs, a sequence
  float scale_log2 = 0.0F;  // softmax_scale * log2(e): weights are powers of two
  __nv_bfloat16* out = nullptr;
  float* partial = nullptr;
  float* partial_weights = nullptr;
};

__device__ inline MlaRow mla_row(const MlaDecodeRows& rows, int32_t row) {
  return MlaRow{rows.slot[row], rows.first[row], rows.query[row], rows.context[row]};
}

__device__ inline int32_t blocks_of_row(const MlaRow& row) {
  const int32_t tokens = row.context + row.query;
  return row.query == 0 ? 0 : (tokens + kMlaBlockTokens - 1) / kMlaBlockTokens;
}

__device__ inline int32_t blocks_of_row(const MlaDecodeRows& rows, int32_t row) {
  return blocks_of_row(MlaRow{0, 0, rows.query[row], rows.context[row]});
}

// A run of blocks of one row.
struct MlaPiece {
  int32_t row = 0;
  int32_t begin = 0;
  int32_t end = 0;
  MlaRow of{0, 0, 0, 0};
  bool whole = false;   // the row is in no other part
  MlaCut cut{0, 0, 0};  // of a row that is in several
};

// Calls body(piece) for every piece of part `number`, in order.
template <typename Body>
__device__ void for_each_piece(const MlaDecodeArgs& a, int32_t number, Body&& body) {
  const MlaPart part = a.schedule.parts[number];
  for (int32_t row = part.row_begin; row <= part.row_end; ++row) {
    MlaPiece piece;
    piece.row = row;
    piece.of = row == part.row_begin ? part.row : mla_row(a.rows, row);
    const int32_t blocks = blocks_of_row(piece.of);
    piece.begin = row == part.row_begin ? part.tile_begin : 0;
    piece.end = row == part.row_end ? part.tile_end : blocks;
    if (piece.begin >= piece.end) continue;
    piece.whole = piece.begin == 0 && piece.end == blocks;
    if (!piece.whole) piece.cut = a.schedule.cuts[row];
    body(piece);
  }
}

// What a thread that copies waits for: the kernel before this one makes the queries and the step's
// own entries; older blocks of a part's first row are asked for before it ends (mla_decode.h says
// why they are there).
struct EarlierKernels {
  bool over = false;

  __device__ void wait() {
    if (!over) wait_for_earlier_kernels();
    over = true;
  }
  // Before which block of a piece its queries are asked for; piece.end: after the last. At most
  // `blocks` come before them, none that has tokens of this step.
  __device__ int32_t queries_at(const MlaPiece& piece, int32_t blocks) const {
    if (over) return piece.begin;
    const int32_t old = max(piece.of.context / kMlaBlockTokens, piece.begin);
    return min(min(piece.begin + blocks, old), piece.end);
  }
};

// One block of the cache, [64 tokens, 576], as nine tiles of 64 columns.
__device__ inline void copy_block(void* to, const CUtensorMap* map, uint64_t* barrier,
                                  int32_t block, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1, {%3, %3, %3, %4}], [%2], %5;" ::"r"(shared_address(to)),
      "l"(map), "r"(shared_address(barrier)), "r"(0), "r"(block), "l"(policy)
      : "memory");
}

// One tile of 64 columns of a block, to this block of threads or to both of a cluster of two.
template <int kCluster>
__device__ void copy_tile_of_block(void* to, const CUtensorMap* map, uint64_t* barrier,
                                   int32_t tile, int32_t block, uint64_t policy) {
  if constexpr (kCluster == 1) {
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes"
        ".L2::cache_hint [%0], [%1, {%3, %3, %4, %5}], [%2], %6;" ::"r"(shared_address(to)),
        "l"(map), "r"(shared_address(barrier)), "r"(0), "r"(tile), "r"(block), "l"(policy)
        : "memory");
  } else {
    constexpr uint16_t kBoth = 3;
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes"
        ".multicast::cluster.L2::cache_hint [%0], [%1, {%3, %3, %4, %5}], [%2], %7, %6;" ::"r"(
            shared_address(to)),
        "l"(map), "r"(shared_address(barrier)), "r"(0), "r"(tile), "r"(block), "l"(policy),
        "h"(kBoth)
        : "memory");
  }
}

// Queries from `row` on, [pairs, 576], as nine tiles of 64 columns.
__device__ inline void copy_queries(void* to, const CUtensorMap* map, uint64_t* barrier,
                                    int32_t row) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4, %3}], [%2];" ::"r"(shared_address(to)),
      "l"(map), "r"(shared_address(barrier)), "r"(0), "r"(row)
      : "memory");
}

// One tile of 64 columns of them.
__device__ inline void copy_query_tile(void* to, const CUtensorMap* map, uint64_t* barrier,
                                       int32_t tile, int32_t row) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4, %5}], [%2];" ::"r"(shared_address(to)),
      "l"(map), "r"(shared_address(barrier)), "r"(0), "r"(row), "r"(tile)
      : "memory");
}

// Arrives at the barrier of this place in another block of the cluster. Says that reads are done:
// no writes are published, so that no fence of the cluster's scope is paid for.
__device__ inline void barrier_arrive_at(uint64_t* barrier, uint32_t rank) {
  asm volatile(
      "{\n.reg .b32 there;\nmapa.shared::cluster.u32 there, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [there];\n}\n" ::"r"(shared_address(barrier)),
      "r"(rank)
      : "memory");
}

inline constexpr uint64_t kEvictFirst = 0x12F0000000000000;
inline constexpr uint64_t kEvictNormal = 0x1000000000000000;

// Shared memory that threads wrote becomes visible to the copy engine and the tensor cores.
__device__ inline void fence_for_async() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

template <int kNumber, int kThreads>
__device__ void named_barrier() {
  asm volatile("bar.sync %0, %1;" ::"n"(kNumber), "n"(kThreads) : "memory");
}

__device__ inline uint32_t pack_bf16(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  uint32_t bits;
  memcpy(&bits, &pair, sizeof bits);
  return bits;
}

// 2 to a whole number of at most 127; 0 below -126. Of two numbers that are -infinity: 1.
__device__ inline float power_of_two(float whole) {
  return __int_as_float((max(__float2int_rn(whole), -127) + 127) << 23);
}

}  // namespace fathom::kernels
