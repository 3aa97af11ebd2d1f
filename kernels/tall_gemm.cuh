// The tall product's kernel: rows of x are the tensor core's rows, 64 of each of two warpgroups,
// and one box of 96 or 128 rows of W its columns, or two. Blocks stay, and take tiles in a fixed
// order; one thread copies tiles and a warp scales, ahead of the products, over a ring of stages.
// Sums of 128 columns of K are scaled and added in float32; with one box they are while the next
// step's products run.
#pragma once

#include "async_copy.cuh"
#include "tall_heads.cuh"
#include "tall_parts.cuh"
#include "tall_store.cuh"
#include "wgmma.cuh"

namespace fathom::kernels {

// What one thread copies: tiles of W in two parts, and of x.
template <int kColumns>
struct TallTileCopy {
  static constexpr int kPartRows = kColumns / 2;
  const CUtensorMap* w_map;
  const CUtensorMap* x_map;
  const TallArgs& a;
  const TallRing<kColumns>& ring;
  int32_t rank;
  int32_t row = 0;  // of W
  int32_t token = 0;

  __device__ void open(const TallTile& t) {
    row = t.index * a.tile_step;
    token = t.token;
  }
  // Of what two blocks share each copies a half, for both.
  __device__ void load_w(int s, int32_t step) const {
    barrier_expect(ring.full(s),
                   static_cast<uint32_t>(TallRing<kColumns>::kWBytes + a.token_step * kTallBytes));
    const int32_t column = step * kTallBytes;
    if (a.multicast && a.pairing == TallPairing::kTokens) {
      copy_tile_to_blocks(ring.w(s) + rank * kPartRows * kTallBytes, w_map, ring.full(s), column,
                          row + rank * a.part_step, 3);
      return;
    }
#pragma unroll
    for (int p = 0; p < 2; ++p) {
      copy_tile(ring.w(s) + p * kPartRows * kTallBytes, w_map, ring.full(s), column,
                row + p * a.part_step);
    }
  }
  __device__ void load_x(int s, int32_t step) const {
    const int32_t column = step * kTallBytes;
    if (a.multicast && a.pairing == TallPairing::kColumns) {
      const int32_t half = rank * a.token_step / 2;
      copy_tile_to_blocks(ring.x(s) + half * kTallBytes, x_map, ring.full(s), column, token + half,
                          3);
      return;
    }
    copy_tile(ring.x(s), x_map, ring.full(s), column, token);
  }
};

// What one warp copies: the scales of a step's rows of x, and of W.
template <int kColumns>
struct TallScaleCopy {
  static constexpr int kGroups = TallShape<kColumns>::kGroups;
  const TallArgs& a;
  const TallRing<kColumns>& ring;
  int lane;
  int32_t tokens = 0;
  const float* w_row = nullptr;  // of the first lanes
  const float* x_row = nullptr;  // of the first of a lane's tokens

  __device__ void open(const TallTile& t) {
    const int32_t row = min(t.index * a.tile_step + lane % kGroups * a.group_step, a.w_rows - 1);
    w_row = a.w_scales + a.w_scale_rows[row] * a.w_scale_stride;
    x_row = a.x_scales + (t.token + lane) * a.x_scale_stride;
    tokens = t.tokens - lane;
  }
  __device__ void load_w(int s, int32_t step) const {
    if (lane < kGroups) copy_word(ring.scales(s) + kTallTokens + lane, w_row + step, true);
  }
  __device__ void load_x(int s, int32_t step) const {
#pragma unroll
    for (int i = 0; i < kTallTokens; i += 32) {
      if (i < tokens)
        copy_word(ring.scales(s) + i + lane, x_row + i * a.x_scale_stride + step, true);
    }
    barrier_arrive_after_copies(ring.full(s));
  }
};

// All of a block's tiles through the ring: its first turn over W ahead of the earlier kernels' end.
// At last waits until all is read: the cluster's other block arrives at barriers here till then.
template <typename Copy>
__device__ void tall_load(Copy copy, TallTiles tiles) {
  const int32_t stages = copy.a.stages;
  const TallTile first = tiles.tile();  // every block has one
  const int32_t ahead = min(stages, first.end - first.begin);
  copy.open(first);
  for (int32_t i = 0; i < ahead; ++i) copy.load_w(i, first.begin + i);
  wait_for_earlier_kernels();
  for (int32_t i = 0; i < ahead; ++i) copy.load_x(i, first.begin + i);
  RingAt at{ahead % stages, ahead == stages ? 1U : 0U};
  bool refilled = ahead == stages;  // the stage at hand has been full before
  for (int32_t from = ahead; tiles.more(); tiles.next(), from = 0) {
    const TallTile t = tiles.tile();
    copy.open(t);
    for (int32_t step = t.begin + from; step < t.end; ++step) {
      if (refilled) barrier_wait(copy.ring.empty(at.stage), at.parity ^ 1U);
      copy.load_w(at.stage, step);
      copy.load_x(at.stage, step);
      at.next(stages);
      refilled = refilled || at.stage == 0;
    }
  }
  if (!copy.a.multicast) return;
  const int32_t filled = refilled ? stages : at.stage;
  if (!refilled) at = {0, 1};
  for (int32_t i = 0; i < filled; ++i) {
    barrier_wait(copy.ring.empty(at.stage), at.parity ^ 1U);
    at.next(stages);
  }
}

// Of a thread's two rows, times those of W.
template <int kGroups>
struct TallScales {
  float upper[kGroups];
  float lower[kGroups];
};

// Where a warpgroup reads next, as the tensor cores' descriptors name it (low words). Kept from
// step to step: made anew, they would be the longest way from a stage's barrier to its products.
template <int kColumns>
struct TallReads {
  static constexpr uint32_t kXStep = TallRing<kColumns>::kXBytes >> 4;
  static constexpr uint32_t kWStep = TallRing<kColumns>::kWBytes >> 4;
  uint32_t x;
  uint32_t w;
  uint32_t full;  // the stage's barrier
  RingAt at;

  __device__ TallReads(const TallRing<kColumns>& ring, int group)
      : x(static_cast<uint32_t>(wgmma_tile(shared_address(ring.x(0)) + group * 64U * kTallBytes))),
        w(static_cast<uint32_t>(wgmma_tile(shared_address(ring.w(0))))),
        full(shared_address(ring.full(0))) {}
  __device__ void next(uint32_t stages) {
    x += kXStep;
    w += kWStep;
    full += sizeof(uint64_t);
    if (static_cast<uint32_t>(++at.stage) == stages) {
      at = {0, at.parity ^ 1};
      x -= stages * kXStep;
      w -= stages * kWStep;
      full -= stages * static_cast<uint32_t>(sizeof(uint64_t));
    }
  }
};

// The descriptor with this low word, `bytes` further.
__device__ inline uint64_t tall_tile(uint32_t low, int bytes) {
  return (wgmma_tile(0) & 0xFFFFFFFF00000000U) | (low + static_cast<uint32_t>(bytes / 16));
}

// A warpgroup's way through its block's steps.
template <int kColumns>
struct TallMultiply {
  using Shape = TallShape<kColumns>;
  using Scales = TallScales<Shape::kGroups>;
  static constexpr int kSums = Shape::kSums;
  const TallRing<kColumns>& ring;
  int row;              // this thread's first; the other is 8 further
  uint32_t peer_empty;  // the other block's barriers, where it fills stages here; else 0
  TallReads<kColumns> started;
  RingAt done;

  __device__ void wait() const { barrier_wait_at(started.full, started.at.parity); }
  // A box's products of the step at `started`, four instructions of 32 bytes.
  __device__ void issue(int box, float (&d)[kSums]) const {
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      Wgmma<Format::kFp8, Shape::kBoxColumns>::run(
          d, tall_tile(started.x, 32 * k),
          tall_tile(started.w, box * Shape::kBoxColumns * kTallBytes + 32 * k), k > 0);
    }
    wgmma_commit();
  }
  __device__ void read_scales(Scales& s) const {
    const float* scales = ring.scales(started.at.stage);
    const float upper = scales[row];
    const float lower = scales[row + 8];
#pragma unroll
    for (int g = 0; g < Shape::kGroups; ++g) {
      const float w = scales[kTallTokens + g];
      s.upper[g] = upper * w;
      s.lower[g] = lower * w;
    }
  }
  __device__ void release() {
    barrier_arrive_of_warp<true>(ring.empty(done.stage));
    if (peer_empty != 0 && threadIdx.x % 32 == 1) {
      barrier_arrive_remote(peer_empty + static_cast<uint32_t>(done.stage * sizeof(uint64_t)));
    }
    done.next(ring.stages);
  }
  // total += products * scales, of a box's columns.
  __device__ static void promote(float (&total)[kSums], const float (&products)[kSums],
                                 const Scales& s, int box) {
#pragma unroll
    for (int j = 0; j < kSums / 4; ++j) {
      const int g = (box * Shape::kBoxColumns + 8 * j) / Shape::kGroupColumns;
      total[4 * j] += products[4 * j] * s.upper[g];
      total[4 * j + 1] += products[4 * j + 1] * s.upper[g];
      total[4 * j + 2] += products[4 * j + 2] * s.lower[g];
      total[4 * j + 3] += products[4 * j + 3] * s.lower[g];
    }
  }
  __device__ void start(float (&products)[kSums], Scales& s) {
    wait();
    issue(0, products);
    read_scales(s);
    started.next(static_cast<uint32_t>(ring.stages));
  }
  __device__ void finish(float (&total)[kSums], float (&products)[kSums], const Scales& s) {
    wgmma_use(products);
    release();
    promote(total, products, s, 0);
  }

  // One box: two steps' products in turns.
  __device__ void run(float (&total)[1][kSums], int32_t steps) {
    float even[kSums];
    float odd[kSums];
    Scales even_scales;
    Scales odd_scales;
#pragma unroll
    for (float& sum : total[0]) sum = 0.0F;
    start(even, even_scales);
    int32_t left = steps - 1;
#pragma unroll 1
    for (; left >= 2; left -= 2) {
      start(odd, odd_scales);
      wgmma_wait<1>();
      finish(total[0], even, even_scales);
      start(even, even_scales);
      wgmma_wait<1>();
      finish(total[0], odd, odd_scales);
    }
    if (left == 1) {
      start(odd, odd_scales);
      wgmma_wait<1>();
      finish(total[0], even, even_scales);
      wgmma_wait<0>();
      finish(total[0], odd, odd_scales);
    } else {
      wgmma_wait<0>();
      finish(total[0], even, even_scales);
    }
  }

  // Two boxes, a part each: while one warpgroup adds, the other's products run.
  __device__ void run(float (&total)[2][kSums], int32_t steps) {
    float products[kSums];
    Scales scales;
#pragma unroll
    for (int i = 0; i < kSums; ++i) total[0][i] = total[1][i] = 0.0F;
#pragma unroll 1
    for (int32_t step = 0; step < steps; ++step) {
      wait();
      issue(0, products);
      read_scales(scales);
      wgmma_wait<0>();
      wgmma_use(products);
      promote(total[0], products, scales, 0);
      issue(1, products);
      started.next(static_cast<uint32_t>(ring.stages));
      wgmma_wait<0>();
      wgmma_use(products);
      release();
      promote(total[1], products, scales, 1);
    }
  }
};

// store(rows, tile, rank, round, sums) has what a tile ends with.
template <int kColumns, typename Store>
__device__ void tall_multiply(const TallArgs& a, const TallRing<kColumns>& ring, TallTiles tiles,
                              const Store& store) {
  const int warp = __shfl_sync(0xFFFFFFFFU, static_cast<int>(threadIdx.x / 32), 0);
  const int lane = static_cast<int>(threadIdx.x % 32);
  const uint32_t peer =
      a.multicast ? cluster_address(ring.empty(0), static_cast<uint32_t>(tiles.rank ^ 1)) : 0U;
  TallMultiply<kColumns> m{
      ring, warp * 16 + lane / 4, peer, TallReads<kColumns>(ring, warp / 4), {}};
  uint8_t* staged = ring.staged() + warp * 16 * kTallPitch;
  for (int32_t round = 0; tiles.more(); tiles.next(), ++round) {
    const TallTile t = tiles.tile();
    float total[TallShape<kColumns>::kBoxes][TallShape<kColumns>::kSums];
    m.run(total, t.end - t.begin);
    const TallRows rows{a, staged, warp * 16, t.token, t.tokens};
    store(rows, t.index, tiles.rank, round, total);
  }
}

template <int kColumns>
__device__ void tall_init_barriers(const TallArgs& a, const TallRing<kColumns>& ring,
                                   uint32_t tellers) {
  for (int s = 0; s < a.stages; ++s) {
    barrier_init(ring.full(s), 33);
    barrier_init(ring.empty(s), kTallMathThreads + (a.multicast ? kTallMathThreads / 32 : 0));
  }
  barrier_init(ring.told(0), tellers);
  barrier_init(ring.told(1), tellers);
  barrier_init_done();
  if (a.pairing == TallPairing::kSplit) {
    barrier_expect(ring.told(0), static_cast<uint32_t>(ring.received_bytes));
  }
}

__device__ inline uint8_t* tall_base() {
  extern __shared__ uint8_t raw[];
  return raw + (0U - shared_address(raw)) % 1024U;
}

// `tellers` threads arrive at the ring's barriers `told`; the two warps that neither multiply nor
// copy have aside(thread).
template <int kColumns, typename Store, typename Aside>
__device__ void tall_run(const CUtensorMap& w_map, const CUtensorMap& x_map, const TallArgs& a,
                         const TallRing<kColumns>& ring, uint32_t tellers, const Store& store,
                         const Aside& aside) {
  if (threadIdx.x == kTallMathThreads) {
    tall_init_barriers(a, ring, tellers);
  } else if (threadIdx.x == kTallMathThreads + 32) {
    prefetch_map(&w_map);
    prefetch_map(&x_map);
  }
  let_next_kernel_start();
  __syncthreads();
  if (a.pairing != TallPairing::kAlone) {
    cluster_arrive_relaxed();
    cluster_wait();  // the other's barriers are ready
  }
  const TallTiles tiles(a);
  if (threadIdx.x < kTallMathThreads) {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 224;");
    wait_for_earlier_kernels();
    tall_multiply(a, ring, tiles, store);
  } else {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 56;");
    if (threadIdx.x == kTallMathThreads) {
      tall_load(TallTileCopy<kColumns>{&w_map, &x_map, a, ring, tiles.rank}, tiles);
    } else if (threadIdx.x / 32 == kTallMathThreads / 32 + 1) {
      tall_load(TallScaleCopy<kColumns>{a, ring, static_cast<int>(threadIdx.x % 32)}, tiles);
    } else if (threadIdx.x / 32 > kTallMathThreads / 32 + 1) {
      aside(static_cast<int>(threadIdx.x) - kTallMathThreads - 64);
    }
  }
}

template <int kColumns, bool kGated>
__global__ void __launch_bounds__(kTallThreads, 1)
    tall_kernel(const __grid_constant__ CUtensorMap w_map,
                const __grid_constant__ CUtensorMap x_map, const __grid_constant__ TallArgs a) {
  constexpr int kBoxes = TallShape<kColumns>::kBoxes;
  using Sums = float[kBoxes][TallShape<kColumns>::kSums];
  const bool split = a.pairing == TallPairing::kSplit;
  const TallRing<kColumns> ring{tall_base(), a.stages, split ? kTallTokens * 64 * 4 : 0};
  const auto store = [&](const TallRows& rows, int32_t tile, int32_t rank, int32_t round,
                         Sums& total) {
    if constexpr (kGated && kBoxes == 2) {
      tall_store_gated(rows, tile, total);
    } else if constexpr (kGated) {
      tall_store_gated_two(rows, ring, tile, rank, round, total);
    } else {
      if constexpr (kColumns == 128) {
        if (split) {
          tall_join(rows, ring, tile, rank, total);
          return;
        }
      }
      tall_store(rows, tile, total);
    }
  };
  tall_run(w_map, x_map, a, ring, 1, store, [](int) {});
}

// Of qkv: heads, ready for attention.
template <int kColumns>
__global__ void __launch_bounds__(kTallThreads, 1)
    tall_heads_kernel(const __grid_constant__ CUtensorMap w_map,
                      const __grid_constant__ CUtensorMap x_map, const __grid_constant__ TallArgs a,
                      const __grid_constant__ GqaPrepareCall heads) {
  using Sums = float[TallShape<kColumns>::kBoxes][64];
  const TallRing<kColumns> ring{tall_base(), a.stages, 0};
  const TallHeadStore put{heads, ring.places()};
  const auto store = [&](const TallRows& rows, int32_t tile, int32_t, int32_t, Sums& total) {
    barrier_wait(ring.told(1), 0);
    put(rows, tile, total);
  };
  tall_run(w_map, x_map, a, ring, kTallPlaceThreads, store, [&](int thread) {
    tall_find_places(heads, ring.places(), thread);
    barrier_arrive(ring.told(1));
    barrier_wait(ring.told(1), 0);
    wait_for_earlier_kernels();
    tall_clear(heads, ring.places(), thread);
  });
}

}  // namespace fathom::kernels
