// The kernel of products of many rows. Blocks stay, each with every so-manieth item: 128 rows of x
// by two boxes of 128 rows of W. One thread copies over a ring of stages of 128 bytes of K; two
// warpgroups of 64 rows each multiply: while one adds what the tensor cores gave, they have the
// other's products. Blocks work in twos (a cluster) on neighbouring rows of x and the same of W, of
// which each copies one box for both.
#pragma once

#include "cluster.cuh"
#include "many_share.cuh"
#include "many_store.cuh"
#include "wgmma.cuh"

namespace fathom::kernels {

// ---- Copies, by one thread.

template <bool kScaled>
struct ManyCopier {
  const ManyMaps& maps;
  const ManyArgs& a;
  ManyShared& s;
  int32_t rank;
  RingPlace<kManyStages> at;

  static constexpr int kStageColumns = kScaled ? kManyBytes : kManyBytes / 2;

  __device__ void w_scales(int32_t w_block, int32_t k, uint64_t* full) const {
    for (int box = 0; box < 2; ++box) {
      const int32_t block = min(w_block + box * (a.second_box / kManyBox), a.w_blocks - 1);
      copy_scales(s.w_scales[at.phase][box], a.w_scales + block * a.w_scale_stride + k, full);
    }
  }

  // W's part of a stage; x's follows.
  __device__ void load_w(int32_t w_row, int32_t k) const {
    constexpr uint32_t kScaleBytes = kManyTileRows * kManyStages * 4 + 2 * 16;
    constexpr int kBoxBytes = kManyBox * kManyBytes;
    uint64_t* full = &s.full[at.index];
    const bool first = kScaled && at.index == 0;
    barrier_expect(full, kManyWBytes + kManyXBytes + (first ? kScaleBytes : 0));
    if (first) w_scales(w_row / kManyBox, k, full);
    copy_tile_to_blocks(s.w[at.index] + rank * kBoxBytes, &maps.w, full, k * kStageColumns,
                        w_row + rank * a.second_box, 3);
  }
  __device__ void load_x(int32_t x_row, int32_t k) const {
    uint64_t* full = &s.full[at.index];
    if (kScaled && at.index == 0) copy_tile(s.x_scales[at.phase], &maps.x_scales, full, k, x_row);
    copy_tile(s.x[at.index], &maps.x, full, k * kStageColumns, x_row);
  }

  // The first turn's W ahead of the earlier kernels' end.
  __device__ void start(int32_t x_row, int32_t w_row, int32_t k) {
    for (int i = 0; i < kManyStages; ++i, at.advance()) load_w(w_row, k + i);
    wait_for_earlier_kernels();
    at = {};
    for (int i = 0; i < kManyStages; ++i, at.advance()) load_x(x_row, k + i);
  }

  __device__ void run() {
    for (int32_t n = 0;; ++n) {
      const ManyPart part = many_part(a, n);
      if (!part.there) return;
      const ManyItem item = many_item(a, part.item);
      const int32_t x_row = (item.row_unit * 2 + rank) * kManyTileRows;
      const int32_t w_row = item.column_tile * a.box_step;
      int32_t k = part.begin * kManyStages;
      if (n == 0) {
        start(x_row, w_row, k);
        k += kManyStages;
      }
      for (; k < part.end * kManyStages; ++k, at.advance()) {
        barrier_wait(&s.empty[at.index], at.phase ^ 1U);
        load_w(w_row, k);
        load_x(x_row, k);
      }
    }
  }
};

// ---- Products, by two warpgroups.

struct ManyMath {
  ManyShared& s;
  int group;
  uint32_t peer_empty;  // where the barriers `empty` of the two's other block are
  uint32_t phase;       // of the ring's turn

  // One box's products of a stage.
  __device__ void multiply(float (&part)[64], int stage, int box) const {
    const uint64_t x = wgmma_tile(shared_address(s.x[stage]) + group * 64 * kManyBytes);
    const uint64_t w = wgmma_tile(shared_address(s.w[stage]) + box * kManyBox * kManyBytes);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; ++k)
      Wgmma<Format::kFp8, 128>::run(part, x + 2 * k, w + 2 * k, k > 0 ? 1 : 0);
    wgmma_commit();
  }

  template <int kStage>
  __device__ void release() const {
    barrier_arrive_of_warp<many_reads_scales(kStage)>(&s.empty[kStage]);
    if (threadIdx.x % 32 == 1) {
      barrier_arrive_remote(peer_empty + static_cast<uint32_t>(kStage * sizeof(uint64_t)));
    }
  }

  // total += part * scale, of the row and the box.
  __device__ static void add(float (&total)[64], const float (&part)[64], float upper,
                             float lower) {
#pragma unroll
    for (int j = 0; j < 16; ++j) {
      total[4 * j] += part[4 * j] * upper;
      total[4 * j + 1] += part[4 * j + 1] * upper;
      total[4 * j + 2] += part[4 * j + 2] * lower;
      total[4 * j + 3] += part[4 * j + 3] * lower;
    }
  }

  template <int kStage>
  __device__ void run_stage(int row, float (&first)[64], float (&second)[64]) const {
    float part[64];
    barrier_wait(&s.full[kStage], phase);
    multiply(part, kStage, 0);
    const float upper = s.x_scales[phase][row][kStage];
    const float lower = s.x_scales[phase][row + 8][kStage];
    const float box0 = s.w_scales[phase][0][kStage];
    const float box1 = s.w_scales[phase][1][kStage];
    wgmma_wait<0>();
    wgmma_use(part);
    add(first, part, upper * box0, lower * box0);
    multiply(part, kStage, 1);
    wgmma_wait<0>();
    wgmma_use(part);
    release<kStage>();
    add(second, part, upper * box1, lower * box1);
  }

  // Turns of the ring, unrolled: a stage's addresses are constants.
  __device__ void run(int32_t turns, float (&first)[64], float (&second)[64]) {
    const auto row = static_cast<int>(threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4);
#pragma unroll
    for (int i = 0; i < 64; ++i) first[i] = second[i] = 0.0F;
    for (int32_t turn = 0; turn < turns; ++turn) {
      static_assert(kManyStages == 4);
      run_stage<0>(row, first, second);
      run_stage<1>(row, first, second);
      run_stage<2>(row, first, second);
      run_stage<3>(row, first, second);
      phase ^= 1U;
    }
  }
};

template <bool kGated>
__device__ void many_multiply(const ManyArgs& a, ManyShared& s, int32_t rank) {
  // One for the warp, and known to be: descriptors need no detour.
  const int group = __shfl_sync(0xFFFFFFFFU, static_cast<int>(threadIdx.x / 128), 0);
  ManyMath m{s, group, cluster_address(s.empty, rank ^ 1), 0};
  for (int32_t n = 0;; ++n) {
    ManyPart part = many_part(a, n);
    if (!part.there) return;
    float first[64];
    float second[64];
    m.run(part.end - part.begin, first, second);
    asm volatile("" : "+r"(n));  // so that nothing of the part is kept beside the sums
    part = many_part(a, n);
    if (part.role != ManyRole::kWhole) {
      const ManyHandOver over(a, part.shared, rank);
      if (part.role == ManyRole::kHelped) {
        over.put(0, first);
        over.put(64, second);
        over.tell();
        continue;
      }
      over.wait();
      over.add(0, first);
      over.add(64, second);
    }
    const ManyItem item = many_item(a, part.item);
    const int32_t row =
        (item.row_unit * 2 + rank) * kManyTileRows + static_cast<int32_t>(threadIdx.x / 32 * 16);
    many_store<kGated>(a, s, row, item.column_tile, first, second);
  }
}

// The threads of both blocks.
__device__ inline void many_meet() {
  __syncwarp();
  cluster_arrive();
  cluster_wait();
}

// A kernel of blocks in twos: `multiply` is the part of the threads that multiply, the others copy.
template <bool kScaled, typename Multiply>
__device__ void many_run(const ManyMaps& maps, const ManyArgs& a, const Multiply& multiply) {
  extern __shared__ uint8_t raw[];
  auto& s = *reinterpret_cast<ManyShared*>(raw + (0U - shared_address(raw)) % 1024U);
  if (threadIdx.x == 0) {
    for (int i = 0; i < kManyStages; ++i) {
      const int here = kScaled && many_reads_scales(i) ? kWarpArrivals<true> : kWarpArrivals<false>;
      barrier_init(&s.full[i], 1);
      barrier_init(&s.empty[i], static_cast<uint32_t>(kManyMathThreads / 32 * (here + 1)));
    }
    barrier_init_done();
  }
  let_next_kernel_start();
  __syncthreads();
  cluster_arrive_relaxed();
  cluster_wait();  // the other's barriers are ready
  const auto rank = static_cast<int32_t>(cluster_rank());
  if (threadIdx.x < kManyMathThreads) {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    wait_for_earlier_kernels();
    multiply(s, rank);
  } else {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (threadIdx.x == kManyMathThreads) ManyCopier<kScaled>{maps, a, s, rank, {}}.run();
  }
  many_meet();  // the other still writes here
}

template <bool kGated>
__global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(kManyThreads, 1)
    many_kernel(const __grid_constant__ ManyMaps maps, const __grid_constant__ ManyArgs a) {
  many_run<true>(maps, a, [&](ManyShared& s, int32_t rank) { many_multiply<kGated>(a, s, rank); });
}

}  // namespace fathom::kernels
