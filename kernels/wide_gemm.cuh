// The wide product's kernel: tokens are the tensor core's rows, 64 a warpgroup, and rows of W its
// columns, so a tile of W may have any multiple of eight rows and fit the number of SMs. A block is
// two warpgroups, a thread that copies tiles and a warp that copies scales. The blocks of a cluster
// have a range each of one tile's K and send each other sums: each adds those of some columns in
// the order of K.
#pragma once

#include "async_copy.cuh"
#include "cluster.cuh"
#include "move_registers.cuh"
#include "wgmma_more.cuh"
#include "wide_parts.cuh"
#include "wide_store.cuh"

namespace fathom::kernels {

// What one thread copies: tiles.
template <Format kFormat, int kColumns, int kParts>
struct WideTileCopy {
  using Shape = WideShape<kFormat == Format::kFp8, kColumns, kParts>;
  static constexpr int kBlock = kFormat == Format::kFp8 ? 128 : 64;  // columns
  const CUtensorMap* w_map;
  const CUtensorMap* x_map;
  const WideArgs& a;
  const WideRing<Shape>& ring;
  const WideShare& share;

  __device__ void load_w(int s, int32_t step) const {
    barrier_expect(ring.full(s), static_cast<uint32_t>(Shape::kWBytes + a.x_bytes));
#pragma unroll
    for (int p = 0; p < kParts; ++p) {
      copy_tile_streaming(ring.w(s) + p * kColumns * kWideBlockBytes, w_map, ring.full(s),
                          step * kBlock, share.tile * a.tile_step + p * a.part_step);
    }
  }
  __device__ void load_x(int s, int32_t step) const {
    copy_tile(ring.x(s), x_map, ring.full(s), step * kBlock, share.token);
  }
};

// What one warp copies: the scales of each step's rows of W and of x.
template <typename Shape, int kColumns>
struct WideScaleCopy {
  static constexpr int kOfLane = (Shape::kRows + 31) / 32;
  const WideArgs& a;
  const WideRing<Shape>& ring;
  const WideShare& share;
  int lane;
  const float* w_rows[kOfLane];

  __device__ WideScaleCopy(const WideArgs& args, const WideRing<Shape>& to, const WideShare& of)
      : a(args), ring(to), share(of), lane(static_cast<int>(threadIdx.x % 32)) {
#pragma unroll
    for (int j = 0; j < kOfLane; ++j) {
      const int32_t at = 32 * j + lane;
      const int32_t row =
          min(of.tile * a.tile_step + at / kColumns * a.part_step + at % kColumns, a.w_rows - 1);
      w_rows[j] = a.w_scales + a.w_scale_rows[row] * a.w_scale_stride;
    }
  }
  __device__ void load_w(int s, int32_t step) const {
#pragma unroll
    for (int j = 0; j < kOfLane; ++j) {
      if (32 * j + lane < Shape::kRows) {
        copy_word(ring.scales(s) + 32 * j + lane, w_rows[j] + step, true);
      }
    }
  }
  __device__ void load_x(int s, int32_t step) const {
#pragma unroll
    for (int t = lane; t < Shape::kTokens; t += 32) {
      const bool present = t < share.tokens;
      copy_word(ring.scales(s) + Shape::kRows + t,
                a.x_scales + (present ? share.token + t : 0) * a.x_scale_stride + step, present);
    }
    barrier_arrive_after_copies(ring.full(s));
  }
};

// The ring's first turn over weights, ahead of the earlier kernels' end.
template <typename Copy>
__device__ void wide_load_ahead(const Copy& copy) {
  const int32_t ahead = min(copy.share.end, copy.share.begin + copy.ring.stages);
  for (int32_t step = copy.share.begin; step < ahead; ++step) {
    copy.load_w(step - copy.share.begin, step);
  }
}

// The same turn over x, then both as stages come free.
template <typename Copy>
__device__ void wide_load_rest(const Copy& copy) {
  const int32_t ahead = min(copy.share.end, copy.share.begin + copy.ring.stages);
  for (int32_t step = copy.share.begin; step < ahead; ++step) {
    copy.load_x(step - copy.share.begin, step);
  }
  RingAt at;
  for (int32_t step = ahead; step < copy.share.end; ++step) {
    barrier_wait(copy.ring.empty(at.stage), at.parity);
    copy.load_w(at.stage, step);
    copy.load_x(at.stage, step);
    at.next(copy.ring.stages);
  }
}

// total += block * (scale of the token * scale of the row of W).
template <int kColumns>
__device__ void wide_promote(float (&total)[kColumns / 2], const float (&block)[kColumns / 2],
                             const float* columns, float upper, float lower) {
#pragma unroll
  for (int j = 0; j < kColumns / 8; ++j) {
    const float2 w = *reinterpret_cast<const float2*>(columns + 8 * j);
    total[4 * j] += block[4 * j] * (upper * w.x);
    total[4 * j + 1] += block[4 * j + 1] * (upper * w.y);
    total[4 * j + 2] += block[4 * j + 2] * (lower * w.x);
    total[4 * j + 3] += block[4 * j + 3] * (lower * w.y);
  }
}

// A warpgroup's way through its block's steps: its 64 tokens by the tile's rows of W.
template <Format kFormat, int kColumns, int kParts>
struct WideMultiply {
  using Shape = WideShape<kFormat == Format::kFp8, kColumns, kParts>;
  const WideRing<Shape>& ring;
  const WideShare& share;
  int group;
  RingAt issued;
  RingAt done;

  __device__ void wait() const { barrier_wait(ring.full(issued.stage), issued.parity); }
  // One part's product of the step at `issued`, four instructions of 32 bytes.
  __device__ void issue(int part, float (&d)[kColumns / 2], bool keep) const {
    const uint32_t x_at =
        shared_address(ring.x(issued.stage)) + static_cast<uint32_t>(group * 64 * kWideBlockBytes);
    const uint32_t w_at = shared_address(ring.w(issued.stage)) +
                          static_cast<uint32_t>(part * kColumns * kWideBlockBytes);
    const uint64_t x = wgmma_tile(x_at);
    const uint64_t w = wgmma_tile(w_at);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      Wgmma<kFormat, kColumns>::run(d, x + 2 * k, w + 2 * k, keep || k > 0 ? 1 : 0);
    }
  }
  __device__ void release() {
    barrier_arrive_of_warp<kFormat == Format::kFp8>(ring.empty(done.stage));
    done.next(ring.stages);
  }
  __device__ void run(float (&total)[kParts][kColumns / 2]) {
    const int32_t steps = share.end - share.begin;
    if constexpr (kFormat == Format::kFp8) {
      run_scaled(total, steps);
    } else {
      run_exact(total, steps);
    }
  }

 private:
  // Sums of e4m3 products: the tensor core's of 128 columns, then ours, scaled.
  __device__ void run_scaled(float (&total)[kParts][kColumns / 2], int32_t steps) {
    const int thread = static_cast<int>(threadIdx.x % 128);
    const int token = group * 64 + thread / 32 * 16 + thread % 32 / 4;
#pragma unroll
    for (int p = 0; p < kParts; ++p) {
#pragma unroll
      for (int i = 0; i < kColumns / 2; ++i) total[p][i] = 0.0F;
    }
    float block[kColumns / 2];
    for (int32_t step = 0; step < steps; ++step) {
      wait();
      const float* scales = ring.scales(issued.stage);
      const float upper = scales[Shape::kRows + token];
      const float lower = scales[Shape::kRows + token + 8];
#pragma unroll
      for (int p = 0; p < kParts; ++p) {
        wgmma_fence();
        issue(p, block, false);
        wgmma_commit();
        wgmma_wait<0>();
        wgmma_use(block);
        wide_promote<kColumns>(total[p], block, scales + p * kColumns + thread % 4 * 2, upper,
                               lower);
      }
      issued.next(ring.stages);
      release();
    }
  }
  // Sums of bf16 products, all the tensor core's; a stage is given back when the next is in flight.
  __device__ void run_exact(float (&total)[kParts][kColumns / 2], int32_t steps) {
    for (int32_t step = 0; step < steps; ++step) {
      wait();
      wgmma_fence();
#pragma unroll
      for (int p = 0; p < kParts; ++p) issue(p, total[p], step > 0);
      wgmma_commit();
      issued.next(ring.stages);
      if (step > 0) {
        wgmma_wait<1>();
        release();
      }
    }
    wgmma_wait<0>();
#pragma unroll
    for (int p = 0; p < kParts; ++p) wgmma_use(total[p]);
  }
};

template <Format kFormat, int kColumns, int kParts>
__device__ void wide_multiply_tile(
    const WideArgs& a, const WideRing<WideShape<kFormat == Format::kFp8, kColumns, kParts>>& ring,
    const WideShare& share) {
  using Shape = WideShape<kFormat == Format::kFp8, kColumns, kParts>;
  const int warp = static_cast<int>(threadIdx.x / 32);
  const int lane = static_cast<int>(threadIdx.x % 32);
  WideMultiply<kFormat, kColumns, kParts> m{ring, share, warp / 4, {}, {}};
  float total[kParts][kColumns / 2];
  m.run(total);
  const WideOutput output{a, share.token + warp * 16 + lane / 4, share.token + share.tokens};
  if (a.split > 1) {
    wide_join<Shape, kColumns, kParts>(total, a, ring, share, output);
    return;
  }
#pragma unroll
  for (int c = 0; c < Shape::kColumnGroups; ++c) {
    float v[kParts][4];
#pragma unroll
    for (int p = 0; p < kParts; ++p) {
#pragma unroll
      for (int i = 0; i < 4; ++i) v[p][i] = total[p][4 * c + i];
    }
    wide_store<kColumns, kParts>(a, output, share.tile, c, v);
  }
}

template <Format kFormat, typename Shape, int kParts>
__device__ void wide_init_barriers(const WideArgs& a, const WideRing<Shape>& ring,
                                   const WideShare& share) {
  for (int s = 0; s < a.stages; ++s) {
    barrier_init(ring.full(s), kFormat == Format::kFp8 ? 33 : 1);
    barrier_init(ring.empty(s), Shape::kMathWarps * kWarpArrivals<kFormat == Format::kFp8>);
  }
  barrier_init(ring.joined(), 1);
  barrier_init_done();
  const int32_t each = wide_each<Shape>(a);
  const int32_t mine = min(each, Shape::kColumnGroups - share.part * each);
  const int32_t warps = (share.tokens + 15) / 16;
  barrier_expect(ring.joined(), static_cast<uint32_t>((a.split - 1) * warps * mine * kParts * 512));
}

template <typename Shape>
__device__ WideShare wide_share(const WideArgs& a) {
  WideShare share;
  share.part = static_cast<int32_t>(cluster_rank());
  share.tile = static_cast<int32_t>(blockIdx.x) / a.split;
  share.token = static_cast<int32_t>(blockIdx.y) * Shape::kTokens;
  share.tokens = min(a.tokens - share.token, Shape::kTokens);
  share.begin = a.k_blocks * share.part / a.split;
  share.end = a.k_blocks * (share.part + 1) / a.split;
  return share;
}

template <Format kFormat, int kColumns, int kParts>
__global__ void __launch_bounds__(WideShape<kFormat == Format::kFp8, kColumns, kParts>::kThreads,
                                  kFormat == Format::kFp8 ? 1 : 2)
    wide_kernel(const __grid_constant__ CUtensorMap w_map,
                const __grid_constant__ CUtensorMap x_map, const __grid_constant__ WideArgs a) {
  using Shape = WideShape<kFormat == Format::kFp8, kColumns, kParts>;
  extern __shared__ __align__(1024) uint8_t shared[];
  const int32_t each = wide_each<Shape>(a);
  const WideRing<Shape> ring{shared, a.stages,
                             (a.split - 1) * Shape::kMathWarps * each * kParts * 512};
  const WideShare share = wide_share<Shape>(a);
  const WideTileCopy<kFormat, kColumns, kParts> tiles{&w_map, &x_map, a, ring, share};
  if (threadIdx.x == Shape::kMathThreads) {
    wide_init_barriers<kFormat, Shape, kParts>(a, ring, share);
    wide_load_ahead(tiles);
  } else if (threadIdx.x == Shape::kMathThreads + 32) {
    prefetch_map(&w_map);
    prefetch_map(&x_map);
  }
  let_next_kernel_start();
  __syncthreads();
  if (a.split > 1) {
    cluster_arrive_relaxed();
    cluster_wait();  // the others' barriers are ready
  }
  if (threadIdx.x < Shape::kMathThreads) {
    if constexpr (Shape::kMoveRegisters) take_registers<232>();
    wait_for_earlier_kernels();
    wide_multiply_tile<kFormat, kColumns, kParts>(a, ring, share);
  } else {
    if constexpr (Shape::kMoveRegisters) give_registers<40>();
    if (threadIdx.x == Shape::kMathThreads) {
      wait_for_earlier_kernels();
      wide_load_rest(tiles);
    } else if (kFormat == Format::kFp8 && threadIdx.x / 32 == Shape::kMathWarps + 1) {
      const WideScaleCopy<Shape, kColumns> scales(a, ring, share);
      wide_load_ahead(scales);
      wait_for_earlier_kernels();
      wide_load_rest(scales);
    }
  }
}

}  // namespace fathom::kernels
