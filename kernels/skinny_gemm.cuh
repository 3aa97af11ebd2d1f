// The skinny product's kernel. A block is one or two warpgroups that multiply, a warp that copies
// tiles and a warp that copies scales. Tokens are the narrow side of the tensor core's product: W's
// tile of 128 or 64 rows is its A, x's is its B. The blocks of a cluster share the K of one tile;
// each sums a part of its rows, over the blocks in the order of K, so the result is a function of
// the inputs and the split alone.
#pragma once

#include "async_copy.cuh"
#include "cluster.cuh"
#include "number.cuh"
#include "ring_place.cuh"
#include "skinny_gemm.h"
#include "turn.cuh"
#include "wgmma.cuh"

namespace fathom::kernels {

// Who does what in a block: a warpgroup has 64 rows of W's tile. A tile of 64 rows by 64 or 128
// tokens is two warpgroups' all the same, half of the tokens each.
template <int kTokens, int kRows>
struct SkinnyShape {
  static constexpr int kTokenGroups = kRows == 64 && kTokens >= 64 ? 2 : 1;
  static constexpr int kWide = kTokens / kTokenGroups;  // tokens of a warpgroup
  static constexpr int kRowWarps = kRows / 16;
  static constexpr int kMathWarps = kRowWarps * kTokenGroups;
  static constexpr int kMathThreads = 32 * kMathWarps;
  static constexpr int kThreads = kMathThreads + 64;
};

struct SkinnyArgs {
  int32_t tokens = 0;
  int32_t out = 0;       // rows of W
  int32_t k_blocks = 0;  // steps of a tile
  int32_t split = 1;
  int32_t stages = 0;
  int32_t x_bytes = 0;  // of a step
  const float* w_scales = nullptr;
  const int32_t* w_scale_rows = nullptr;
  int64_t w_scale_stride = 0;
  const float* x_scales = nullptr;
  int64_t x_scale_stride = 0;
  Rows y;
  Format round = Format::kF32;
  bool overlap_next = true;
  Turn turn;
};

// A block's share: steps [begin, end) of one tile, for some of the tokens.
struct SkinnyShare {
  int32_t tile;
  int32_t begin;
  int32_t end;
  int32_t token;  // first
  int32_t tokens;
};

// A block's shared memory: the ring's stages, then the sums that the cluster's blocks send.
template <int kTokens, int kRows>
struct SkinnyRing {
  static constexpr int kWBytes = kRows * kSkinnyBlockBytes;
  static constexpr int kXBytes = kTokens * kSkinnyBlockBytes;
  static constexpr int kScales = kRows + kTokens;

  uint8_t* base;
  int32_t stages;
  int32_t split;

  __device__ uint8_t* w(int s) const { return base + s * kWBytes; }
  __device__ uint8_t* x(int s) const { return base + stages * kWBytes + s * kXBytes; }
  // [split][warps of the block's rows][kTokens / 8][32 lanes]
  __device__ float4* sums() const {
    return reinterpret_cast<float4*>(base + stages * (kWBytes + kXBytes));
  }
  // [rows of W | tokens]
  __device__ float* scales(int s) const {
    const int32_t sent = split > 1 ? kRows * kTokens : 0;
    return reinterpret_cast<float*>(sums()) + sent + s * kScales;
  }
  __device__ uint64_t* full(int s) const { return reinterpret_cast<uint64_t*>(scales(stages)) + s; }
  __device__ uint64_t* empty(int s) const { return full(stages) + s; }
  __device__ uint64_t* joined() const { return full(2 * stages); }
};

// What one thread copies: tiles.
template <Format kFormat, int kTokens, int kRows>
struct TileCopy {
  static constexpr int kBlock = kFormat == Format::kFp8 ? 128 : 64;  // columns
  const CUtensorMap* w_map;
  const CUtensorMap* x_map;
  const SkinnyRing<kTokens, kRows>& ring;
  int32_t row;
  int32_t token;
  int32_t x_bytes;

  __device__ void load_w(int s, int32_t step) const {
    barrier_expect(ring.full(s), static_cast<uint32_t>(ring.kWBytes + x_bytes));
    copy_tile_streaming(ring.w(s), w_map, ring.full(s), step * kBlock, row);
  }
  __device__ void load_x(int s, int32_t step) const {
    copy_tile(ring.x(s), x_map, ring.full(s), step * kBlock, token);
  }
};

// What one warp copies: the scales of each step's rows of W and of x.
template <int kTokens, int kRows>
struct ScaleCopy {
  static constexpr int kOfLane = kRows / 32;
  const SkinnyArgs& a;
  const SkinnyRing<kTokens, kRows>& ring;
  const SkinnyShare& share;
  int lane;
  const float* w_rows[kOfLane];

  __device__ ScaleCopy(const SkinnyArgs& args, const SkinnyRing<kTokens, kRows>& to,
                       const SkinnyShare& of)
      : a(args), ring(to), share(of), lane(static_cast<int>(threadIdx.x % 32)) {
#pragma unroll
    for (int j = 0; j < kOfLane; ++j) {
      const int32_t row = min(share.tile * kRows + 32 * j + lane, a.out - 1);
      w_rows[j] = a.w_scales + a.w_scale_rows[row] * a.w_scale_stride;
    }
  }
  __device__ void load_w(int s, int32_t step) const {
#pragma unroll
    for (int j = 0; j < kOfLane; ++j) {
      copy_word(ring.scales(s) + 32 * j + lane, w_rows[j] + step, true);
    }
  }
  __device__ void load_x(int s, int32_t step) const {
    for (int t = lane; t < kTokens; t += 32) {
      const bool present = t < share.tokens;
      copy_word(ring.scales(s) + kRows + t,
                a.x_scales + (present ? share.token + t : 0) * a.x_scale_stride + step, present);
    }
    barrier_arrive_after_copies(ring.full(s));
  }
};

// The ring's first round of weights, stages [from, to), ahead of the earlier kernels' end.
template <typename Copy>
__device__ void load_ahead(const Copy& copy, const SkinnyShare& share, int32_t from, int32_t to) {
  const int32_t end = min(min(to, copy.ring.stages), share.end - share.begin);
  for (int32_t s = from; s < end; ++s) copy.load_w(s, share.begin + s);
}

// The same round of x, then both as stages come free. The turn ends a little ahead of the last.
template <typename Copy>
__device__ void load_rest(const Copy& copy, const SkinnyShare& share, const Turn& turn) {
  const int32_t ahead = min(share.end, share.begin + copy.ring.stages);
  for (int32_t step = share.begin; step < ahead; ++step) copy.load_x(step - share.begin, step);
  const int32_t last = max(ahead, share.end - kSkinnyStepsLate);
  RingAt at;
  for (int32_t step = ahead; step < share.end; ++step) {
    if (step == last) end_turn(turn);
    barrier_wait(copy.ring.empty(at.stage), at.parity);
    copy.load_w(at.stage, step);
    copy.load_x(at.stage, step);
    at.next(copy.ring.stages);
  }
  if (last >= share.end) end_turn(turn);
}

// total += block * (scale of the token * scale of the row of W). `tokens`: scales from this
// thread's first token on.
template <int kTokens>
__device__ void promote(float (&total)[kTokens / 2], const float (&block)[kTokens / 2],
                        const float* rows, const float* tokens) {
  const float upper = rows[0];
  const float lower = rows[8];
#pragma unroll
  for (int j = 0; j < kTokens / 8; ++j) {
    const float2 x = *reinterpret_cast<const float2*>(tokens + 8 * j);
    total[4 * j] += block[4 * j] * (x.x * upper);
    total[4 * j + 1] += block[4 * j + 1] * (x.y * upper);
    total[4 * j + 2] += block[4 * j + 2] * (x.x * lower);
    total[4 * j + 3] += block[4 * j + 3] * (x.y * lower);
  }
}

// A warpgroup's way through its block's steps: 64 rows of the tile by its tokens.
template <Format kFormat, int kTokens, int kRows>
struct Multiply {
  static constexpr int kWide = SkinnyShape<kTokens, kRows>::kWide;
  const SkinnyRing<kTokens, kRows>& ring;
  int32_t left;  // steps not yet issued
  int row;       // of the tile, this thread's first
  int column;    // of the token tile, likewise
  RingAt issued;
  RingAt done;

  // The next step's product, four instructions of 32 bytes, once its stage is full.
  __device__ void issue(float (&d)[kWide / 2], bool keep) {
    barrier_wait(ring.full(issued.stage), issued.parity);
    const int first_row = row / 64 * 64 * kSkinnyBlockBytes;
    const int first_token = column / kWide * kWide * kSkinnyBlockBytes;
    const uint64_t w = wgmma_tile(shared_address(ring.w(issued.stage)) + first_row);
    const uint64_t x = wgmma_tile(shared_address(ring.x(issued.stage)) + first_token);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      Wgmma<kFormat, kWide>::run(d, w + 2 * k, x + 2 * k, keep || k > 0 ? 1 : 0);
    }
    wgmma_commit();
    issued.next(ring.stages);
    --left;
  }
  __device__ void release() {
    barrier_arrive_of_warp<kFormat == Format::kFp8>(ring.empty(done.stage));
    done.next(ring.stages);
  }
  // Adds the oldest step in flight: all but kPending have ended.
  template <int kPending>
  __device__ void add(float (&total)[kWide / 2], float (&block)[kWide / 2]) {
    wgmma_wait<kPending>();
    wgmma_use(block);
    const float* scales = ring.scales(done.stage);
    promote<kWide>(total, block, scales + row, scales + kRows + column);
    release();
  }
};

// Sums of e4m3 products: the tensor core's of 128 columns, then ours, scaled. Two steps are in
// flight where there are registers for them.
template <typename Multiply, int kCount>
__device__ void multiply_scaled(Multiply& m, float (&total)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) total[i] = 0.0F;
  float even[kCount];
  if constexpr (kCount <= 16) {
    float odd[kCount];
    while (m.left > 1) {
      m.issue(even, false);
      m.issue(odd, false);
      m.template add<1>(total, even);
      m.template add<0>(total, odd);
    }
  }
  while (m.left > 0) {
    m.issue(even, false);
    m.template add<0>(total, even);
  }
}

// Sums of bf16 products, all the tensor core's; a stage is given back when the next is in flight.
template <typename Multiply, int kCount>
__device__ void multiply_exact(Multiply& m, float (&total)[kCount]) {
  m.issue(total, false);
  while (m.left > 0) {
    m.issue(total, true);
    wgmma_wait<1>();
    m.release();
  }
  wgmma_wait<0>();
  wgmma_use(total);
}

// Where a thread's sums go: rows `row` and row + 8 of W, tokens from `column` on.
struct Output {
  const SkinnyArgs& a;
  int32_t row;
  int32_t column;
  bool f32;

  __device__ Output(const SkinnyArgs& args, int32_t first_row, int32_t first_column)
      : a(args), row(first_row), column(first_column), f32(args.y.format == Format::kF32) {}

  // Tokens 8 j + column and the next, both rows.
  __device__ void store(int j, const float4& sums) const {
    const float values[4] = {sums.x, sums.y, sums.z, sums.w};
#pragma unroll
    for (int t = 0; t < 2; ++t) {
      const int32_t token = 8 * j + column + t;
      if (token >= a.tokens) return;
      const int64_t at = token * a.y.stride + row;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float value = values[2 * i + t];
        if (row + 8 * i >= a.out) break;
        if (f32) {
          static_cast<float*>(a.y.data)[at + 8 * i] = round_number(a.round, value);
        } else {
          static_cast<__nv_bfloat16*>(a.y.data)[at + 8 * i] = __float2bfloat16_rn(value);
        }
      }
    }
  }
};

// Sends each warp's sums to the block that has those rows, and sums what this block has.
template <int kTokens, int kRows, int kCount>
__device__ void join(const float (&total)[kCount], const SkinnyArgs& a,
                     const SkinnyRing<kTokens, kRows>& ring, const SkinnyShare& share) {
  using Shape = SkinnyShape<kTokens, kRows>;
  const int warp = static_cast<int>(threadIdx.x / 32);
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int warps = Shape::kRowWarps / a.split;  // whose rows a block has
  const auto rank = static_cast<int>(cluster_rank());
  const int row_warp = warp % Shape::kRowWarps;
  const int owner = row_warp / warps;
  constexpr int kGroups = kTokens / 8;
  const int active = (share.tokens + 7) / 8;
  const int first = warp / Shape::kRowWarps * (Shape::kWide / 8);  // group of this warp
  cluster_wait();                                                  // the others' barriers are ready
  float4* to = ring.sums() + ((rank * warps + row_warp % warps) * kGroups + first) * 32 + lane;
#pragma unroll
  for (int j = 0; j < Shape::kWide / 8; ++j) {
    if (first + j >= active) break;
    const float4 v =
        make_float4(total[4 * j], total[4 * j + 1], total[4 * j + 2], total[4 * j + 3]);
    if (owner == rank) {
      to[j * 32] = v;
    } else {
      send(to + j * 32, ring.joined(), static_cast<uint32_t>(owner), v);
    }
  }
  asm volatile("bar.sync 1, %0;" ::"n"(Shape::kMathThreads) : "memory");  // this block's own
  barrier_wait(ring.joined(), 0);
  for (int item = warp; item < warps * kGroups; item += Shape::kMathWarps) {
    const int j = item % kGroups;
    if (j >= active) continue;
    const float4* from = ring.sums() + item * 32 + lane;
    float4 sum = *from;
    for (int source = 1; source < a.split; ++source) {
      const float4 v = from[source * warps * kGroups * 32];
      sum.x += v.x;
      sum.y += v.y;
      sum.z += v.z;
      sum.w += v.w;
    }
    const int32_t row = share.tile * kRows + (rank * warps + item / kGroups) * 16 + lane / 4;
    Output(a, row, share.token + lane % 4 * 2).store(j, sum);
  }
}

template <Format kFormat, int kTokens, int kRows>
__device__ void multiply_tile(const SkinnyArgs& a, const SkinnyRing<kTokens, kRows>& ring,
                              const SkinnyShare& share) {
  using Shape = SkinnyShape<kTokens, kRows>;
  const int warp = static_cast<int>(threadIdx.x / 32);
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int row = warp % Shape::kRowWarps * 16 + lane / 4;
  const int column = warp / Shape::kRowWarps * Shape::kWide + lane % 4 * 2;
  Multiply<kFormat, kTokens, kRows> m{ring, share.end - share.begin, row, column, {}, {}};
  float total[Shape::kWide / 2];
  if constexpr (kFormat == Format::kFp8) {
    multiply_scaled(m, total);
  } else {
    multiply_exact(m, total);
  }
  if (a.split > 1) {
    join<kTokens, kRows>(total, a, ring, share);
    return;
  }
  const Output output(a, share.tile * kRows + row, share.token + column);
#pragma unroll
  for (int j = 0; j < Shape::kWide / 8; ++j) {
    output.store(j,
                 make_float4(total[4 * j], total[4 * j + 1], total[4 * j + 2], total[4 * j + 3]));
  }
}

template <Format kFormat, int kTokens, int kRows>
__device__ void init_barriers(const SkinnyArgs& a, const SkinnyRing<kTokens, kRows>& ring,
                              const SkinnyShare& share) {
  using Shape = SkinnyShape<kTokens, kRows>;
  for (int s = 0; s < a.stages; ++s) {
    barrier_init(ring.full(s), kFormat == Format::kFp8 ? 33 : 1);
    barrier_init(ring.empty(s), Shape::kMathWarps * kWarpArrivals<kFormat == Format::kFp8>);
  }
  barrier_init(ring.joined(), 1);
  barrier_init_done();
  // The fragments of this block's rows, of 512 bytes, from the other blocks.
  const int32_t fragments = Shape::kRowWarps / a.split * (a.split - 1) * ((share.tokens + 7) / 8);
  barrier_expect(ring.joined(), static_cast<uint32_t>(fragments * 512));
}

template <Format kFormat, int kTokens, int kRows>
__global__ void __launch_bounds__(SkinnyShape<kTokens, kRows>::kThreads, 2)
    skinny_kernel(const __grid_constant__ CUtensorMap w_map,
                  const __grid_constant__ CUtensorMap x_map, const __grid_constant__ SkinnyArgs a) {
  constexpr int kMathThreads = SkinnyShape<kTokens, kRows>::kMathThreads;
  extern __shared__ __align__(1024) uint8_t shared[];
  const SkinnyRing<kTokens, kRows> ring{shared, a.stages, a.split};
  const auto rank = static_cast<int32_t>(cluster_rank());
  const auto first = static_cast<int32_t>(blockIdx.y) * kTokens;
  const SkinnyShare share{static_cast<int32_t>(blockIdx.x) / a.split, a.k_blocks * rank / a.split,
                          a.k_blocks * (rank + 1) / a.split, first, min(a.tokens - first, kTokens)};
  const int32_t early = a.turn.wanted == 0 ? a.stages : kSkinnyStagesEarly;
  const TileCopy<kFormat, kTokens, kRows> tiles{&w_map,      &x_map,   ring, share.tile * kRows,
                                                share.token, a.x_bytes};
  if (threadIdx.x == kMathThreads) {
    init_barriers<kFormat, kTokens, kRows>(a, ring, share);
    load_ahead(tiles, share, 0, early);
  } else if (threadIdx.x == kMathThreads + 32) {
    prefetch_map(&w_map);
    prefetch_map(&x_map);
  }
  if (a.overlap_next) let_next_kernel_start();
  __syncthreads();
  if (a.split > 1) cluster_arrive_relaxed();
  if (threadIdx.x < kMathThreads) {
    wait_for_earlier_kernels();
    multiply_tile<kFormat, kTokens, kRows>(a, ring, share);
  } else if (threadIdx.x == kMathThreads) {
    await_turn(a.turn);
    load_ahead(tiles, share, early, a.stages);
    wait_for_earlier_kernels();
    begin_turns(a.turn);
    load_rest(tiles, share, a.turn);
    if (!a.overlap_next) let_next_kernel_start();
  } else if (kFormat == Format::kFp8 && threadIdx.x >= kMathThreads + 32) {
    const ScaleCopy<kTokens, kRows> scales(a, ring, share);
    load_ahead(scales, share, 0, a.stages);
    wait_for_earlier_kernels();
    load_rest(scales, share, Turn{});
  }
}

}  // namespace fathom::kernels
