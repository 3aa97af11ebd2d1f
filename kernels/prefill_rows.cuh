// Where a block's work lies in a step, what prefill attention is told, and its copies of tiles.
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>

#include "async_copy.cuh"
#include "number.cuh"
#include "prefill_attention.h"
#include "prefill_products.cuh"
#include "ring_place.cuh"

namespace fathom::kernels {

struct PrefillArgs {
  PrefillRows rows;
  int32_t heads = 0;          // of this launch
  int32_t first_head = 0;     // of the model's
  int32_t kv_heads = 0;       // of a cache entry
  int32_t query_columns = 0;  // of a head in `queries`
  int32_t query_tiles = 0;
  float scale_log2 = 0.0F;  // softmax_scale * log2(e): weights are powers of two
  Epilogue out;
  // Key tiles [slice_begin, slice_end) of the rows' contexts laid one behind the other.
  int32_t slice_begin = 0;
  int32_t slice_end = 0;
  // Blocks of threads that share a tile's keys; each has a carry of its own.
  int32_t splits = 1;
  float* carry = nullptr;  // [splits, query_tiles, heads, kPrefillCarryFloats]
  bool spread = false;     // the cache is a slice of contexts, tile by tile, not pages
};

// A tile of a row, and the key tiles of the rows before it.
struct PrefillPlace {
  int32_t row = -1;  // none
  int32_t tile = 0;
  int32_t keys_before = 0;
};

__device__ inline int32_t prefill_key_tiles(const PrefillRows& r, int32_t row) {
  const int32_t query = r.query[row];
  return query == 0 ? 0 : (r.context[row] + query + kPrefillKeyTile - 1) / kPrefillKeyTile;
}

__device__ inline int32_t prefill_query_tiles(const PrefillRows& r, int32_t row) {
  return (r.first[row + 1] - r.first[row] + kPrefillQueryTile - 1) / kPrefillQueryTile;
}

__device__ inline int32_t sum_of_lanes_before(int32_t x) {
  const auto lane = static_cast<int32_t>(threadIdx.x % 32);
  int32_t sum = x;
  for (int offset = 1; offset < 32; offset *= 2) {
    const int32_t other = __shfl_up_sync(0xFFFFFFFFU, sum, offset);
    if (lane >= offset) sum += other;
  }
  return sum - x;
}

// Tile number `wanted` of all rows' key tiles or query tiles, one row behind the other. By a whole
// warp; every lane gets it.
template <bool kKeys>
__device__ PrefillPlace prefill_find(const PrefillRows& r, int32_t wanted) {
  const auto lane = static_cast<int32_t>(threadIdx.x % 32);
  int32_t tiles_before = 0;
  int32_t keys_before = 0;
  PrefillPlace place;
  for (int32_t first = r.begin; first < r.end; first += 32) {
    const int32_t row = first + lane;
    const int32_t keys = row < r.end ? prefill_key_tiles(r, row) : 0;
    const int32_t tiles = kKeys ? keys : row < r.end ? prefill_query_tiles(r, row) : 0;
    const int32_t tile_at = tiles_before + sum_of_lanes_before(tiles);
    const int32_t keys_at = keys_before + sum_of_lanes_before(keys);
    const uint32_t past = __ballot_sync(0xFFFFFFFFU, tile_at + tiles > wanted);
    if (past != 0) {
      const int leader = __ffs(static_cast<int>(past)) - 1;
      place.row = first + leader;
      place.tile = wanted - __shfl_sync(0xFFFFFFFFU, tile_at, leader);
      place.keys_before = __shfl_sync(0xFFFFFFFFU, keys_at, leader);
      return place;
    }
    tiles_before = __shfl_sync(0xFFFFFFFFU, tile_at + tiles, 31);
    keys_before = __shfl_sync(0xFFFFFFFFU, keys_at + keys, 31);
  }
  return place;
}

// A block's share: queries [first_query, first_query + 128) of a row, key tiles [begin, end).
struct PrefillWork {
  int32_t row = 0;
  int32_t token = 0;  // of the row's first, in the step
  int32_t bound = 0;
  int32_t query = 0;
  int32_t context = 0;
  int32_t first_query = 0;
  int32_t begin = 0;
  int32_t end = 0;
  bool fresh = true;   // no slice came before
  bool last = true;    // none follows
  int32_t offset = 0;  // of the row's key tile 0 in this slice's expanded keys

  __device__ bool padding() const { return first_query >= query; }
};

__device__ inline PrefillWork prefill_work(const PrefillArgs& a, const PrefillPlace& place) {
  PrefillWork w;
  w.row = place.row;
  w.token = a.rows.first[w.row];
  w.bound = a.rows.first[w.row + 1] - w.token;
  w.query = a.rows.query[w.row];
  w.context = a.rows.context[w.row];
  w.first_query = place.tile * kPrefillQueryTile;
  const int32_t seen = w.context + min(w.query, w.first_query + kPrefillQueryTile);
  const int32_t tiles = (seen + kPrefillKeyTile - 1) / kPrefillKeyTile;
  w.offset = place.keys_before - a.slice_begin;
  w.begin = max(0, -w.offset);
  w.end = min(tiles, a.slice_end - place.keys_before);
  w.fresh = w.begin == 0;
  w.last = w.end == tiles;
  return w;
}

// Of it, what block `split` takes.
__device__ inline void prefill_take_share(PrefillWork& w, int32_t split, int32_t splits) {
  const int32_t tiles = max(w.end - w.begin, 0);
  const int32_t first = w.begin;
  w.begin = first + tiles * split / splits;
  w.end = first + tiles * (split + 1) / splits;
}

// A box of 64 tokens by 64 columns of a map (column, token, column tile, block). Blocks of threads
// beside this one read it too.
__device__ inline void copy_page_tile(void* to, const CUtensorMap* map, uint64_t* barrier,
                                      int32_t tile, int32_t block) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %3, %4, %5}], [%2];" ::"r"(shared_address(to)),
      "l"(map), "r"(shared_address(barrier)), "r"(0), "r"(tile), "r"(block)
      : "memory");
}

// Shared memory that threads wrote becomes visible to the copy engine and the tensor cores.
__device__ inline void publish_to_async() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

}  // namespace fathom::kernels
