// The kernel of products of many rows in bf16: blocks, copies and shared items are those of e4m3
// (many_gemm.cuh). There are no scales, so a tile's sums stay in the tensor cores from the first
// column of K to the last.
#pragma once

#include "many_gemm.cuh"

namespace fathom::kernels {

struct ManyExactMath {
  ManyShared& s;
  int group;
  uint32_t peer_empty;
  uint32_t phase;

  __device__ void release(int stage) const {
    barrier_arrive_of_warp<false>(&s.empty[stage]);
    if (threadIdx.x % 32 == 1)
      barrier_arrive_remote(peer_empty + static_cast<uint32_t>(stage * sizeof(uint64_t)));
  }
  // The stage before is done with once this one's products are on their way.
  template <int kStage>
  __device__ void run_stage(bool first, float (&total)[128]) const {
    barrier_wait(&s.full[kStage], phase);
    const uint64_t x = wgmma_tile(shared_address(s.x[kStage]) + group * 64 * kManyBytes);
    const uint64_t w = wgmma_tile(shared_address(s.w[kStage]));
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const bool keep = k > 0 || kStage > 0 || !first;
      Wgmma<Format::kBF16, 256>::run(total, x + 2 * k, w + 2 * k, keep ? 1 : 0);
    }
    wgmma_commit();
    wgmma_wait<1>();
    if (kStage > 0 || !first) release((kStage + kManyStages - 1) % kManyStages);
  }
  __device__ void run(int32_t turns, float (&total)[128]) {
    for (int32_t turn = 0; turn < turns; ++turn) {
      static_assert(kManyStages == 4);
      run_stage<0>(turn == 0, total);
      run_stage<1>(turn == 0, total);
      run_stage<2>(turn == 0, total);
      run_stage<3>(turn == 0, total);
      phase ^= 1U;
    }
    wgmma_wait<0>();
    wgmma_use(total);
    release(kManyStages - 1);
  }
};

// `row`, `column`: this thread's first two; of four lanes, which have a sector of a row.
__device__ inline void many_store_floats(const ManyArgs& a, int32_t row, int32_t column,
                                         const float (&total)[128]) {
  float* to = static_cast<float*>(a.out.data) + row * a.out.stride + column;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (row + 8 * half >= a.rows) break;
#pragma unroll
    for (int j = 0; j < 32; ++j) {
      if (column + 8 * j >= a.columns) break;
      *reinterpret_cast<float2*>(to + 8 * half * a.out.stride + 8 * j) =
          make_float2(total[4 * j + 2 * half], total[4 * j + 2 * half + 1]);
    }
  }
}

// The largest of each of both rows' two times 128 columns, by the four lanes that have them.
__device__ inline void many_store_peaks(const ManyArgs& a, int32_t row, int32_t column_tile,
                                        const float (&total)[128]) {
  constexpr int kParts = kManyTileColumns / kManyBox;
#pragma unroll
  for (int i = 0; i < 2 * kParts; ++i) {
    const int half = i % 2;
    const int part = i / 2;
    float peak = -INFINITY;
#pragma unroll
    for (int j = 16 * part; j < 16 * part + 16; ++j)
      peak = fmaxf(peak, fmaxf(total[4 * j + 2 * half], total[4 * j + 2 * half + 1]));
    peak = fmaxf(peak, __shfl_xor_sync(0xFFFFFFFFU, peak, 1));
    peak = fmaxf(peak, __shfl_xor_sync(0xFFFFFFFFU, peak, 2));
    const int32_t at = column_tile * kParts + part;
    if (threadIdx.x % 4 == 0 && row + 8 * half < a.rows && (at + 1) * kManyBox <= a.columns)
      a.peaks[(row + 8 * half) * a.peak_stride + at] = peak;
  }
}

template <bool kPeaks>
__device__ void many_multiply_exact(const ManyArgs& a, ManyShared& s, int32_t rank) {
  const int group = __shfl_sync(0xFFFFFFFFU, static_cast<int>(threadIdx.x / 128), 0);
  ManyExactMath m{s, group, cluster_address(s.empty, rank ^ 1), 0};
  const auto lane = static_cast<int32_t>(threadIdx.x % 32);
  for (int32_t n = 0;; ++n) {
    ManyPart part = many_part(a, n);
    if (!part.there) return;
    float total[128];
    m.run(part.end - part.begin, total);
    asm volatile("" : "+r"(n));  // so that nothing of the part is kept beside the sums
    part = many_part(a, n);
    if (part.role != ManyRole::kWhole) {
      const ManyHandOver over(a, part.shared, rank);
      if (part.role == ManyRole::kHelped) {
        over.put(0, total);
        over.tell();
        continue;
      }
      over.wait();
      over.add(0, total);
    }
    const ManyItem item = many_item(a, part.item);
    const int32_t row = (item.row_unit * 2 + rank) * kManyTileRows +
                        static_cast<int32_t>(threadIdx.x / 32 * 16) + lane / 4;
    many_store_floats(a, row, item.column_tile * kManyTileColumns + lane % 4 * 2, total);
    if constexpr (kPeaks) many_store_peaks(a, row, item.column_tile, total);
  }
}

// kPeaks: a.peaks are wanted.
template <bool kPeaks>
__global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(kManyThreads, 1)
    many_exact_kernel(const __grid_constant__ ManyMaps maps, const __grid_constant__ ManyArgs a) {
  many_run<false>(maps, a,
                  [&](ManyShared& s, int32_t rank) { many_multiply_exact<kPeaks>(a, s, rank); });
}

}  // namespace fathom::kernels
