// Puts partial results together, always in the order of the tokens: warps' granules to a chunk,
// chunks to a segment, segments to the row. So a row's bits do not depend on who computed what.
// Pair p of a tile is the warp's p % 4; a lane has neighbouring dimensions of it.
#pragma once

#include "gqa_decode_tile.cuh"
#include "number.cuh"

namespace fathom::kernels {

// A lane's part of a pair's partial result.
template <int kEach>
struct GqaPartial {
  float peak;   // largest score, base 2; -infinity: no token
  float total;  // sum of weights
  float sum[kEach];  // of weighted values
};

// The pairs of a warp's lane, pair 4 i + warp at i.
template <int kDims, int kGroups>
struct GqaPartials {
  static constexpr int kEach = kDims / 32;
  static constexpr int kOwn = 8 * kGroups / kGqaWarps;
  GqaPartial<kEach> of[kOwn];

  __device__ void clear() {
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      of[i].peak = -INFINITY;
      of[i].total = 0.0F;
#pragma unroll
      for (int d = 0; d < kEach; ++d) of[i].sum[d] = 0.0F;
    }
  }
  // Calls body(pair, partial) for the pairs that the tile has.
  template <typename Body>
  __device__ void each(int32_t pairs, Body&& body) {
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      const int32_t pair = i * kGqaWarps + static_cast<int32_t>(threadIdx.x / 32);
      if (pair < pairs) body(pair, of[i]);
    }
  }
};

// What an earlier result and a later one are worth beside each other.
struct FoldWeights {
  float peak;
  float before;
  float after;
};

__device__ inline FoldWeights fold_weights(float before, float after) {
  const float peak = fmaxf(before, after);
  const float base = peak == -INFINITY ? 0.0F : peak;
  return {peak, exp2_fast(before - base), exp2_fast(after - base)};
}

// a, then b: later tokens.
template <int kEach>
__device__ void fold(GqaPartial<kEach>& a, const GqaPartial<kEach>& b) {
  const FoldWeights w = fold_weights(a.peak, b.peak);
  a.peak = w.peak;
  a.total = __fmaf_rn(a.total, w.before, __fmul_rn(b.total, w.after));
#pragma unroll
  for (int d = 0; d < kEach; ++d)
    a.sum[d] = __fmaf_rn(a.sum[d], w.before, __fmul_rn(b.sum[d], w.after));
}

// Threads of the warps that compute.
__device__ inline void compute_barrier() {
  asm volatile("bar.sync 1, %0;" ::"n"(kGqaWarps * 32) : "memory");
}

template <int kEach>
struct alignas(4 * kEach) LaneFloats {
  float x[kEach];
};

template <int kEach>
struct alignas(2 * kEach) LaneNumbers {
  __nv_bfloat16 x[kEach];
};

// A partial result's place in global memory, past the first-level cache.
template <int kEach>
__device__ void write_partial(const GqaDecodeArgs& a, int32_t slot, int32_t pair,
                              const GqaPartial<kEach>& p) {
  const uint32_t lane = threadIdx.x % 32;
  const int64_t at = int64_t{slot} * a.pairs + pair;
  float* to = a.partial + (at * 32 + lane) * kEach;
  if constexpr (kEach == 4) {
    __stcg(reinterpret_cast<float4*>(to), float4{p.sum[0], p.sum[1], p.sum[2], p.sum[3]});
  } else {
    __stcg(reinterpret_cast<float2*>(to), float2{p.sum[0], p.sum[1]});
  }
  if (lane == 0) __stcg(a.statistics + at, float2{p.peak, p.total});
}

template <int kEach>
__device__ LaneFloats<kEach> read_sums(const GqaDecodeArgs& a, int32_t slot, int32_t pair) {
  const int64_t at = int64_t{slot} * a.pairs + pair;
  const float* from = a.partial + (at * 32 + threadIdx.x % 32) * kEach;
  if constexpr (kEach == 4) {
    const float4 v = __ldcg(reinterpret_cast<const float4*>(from));
    return {v.x, v.y, v.z, v.w};
  } else {
    const float2 v = __ldcg(reinterpret_cast<const float2*>(from));
    return {v.x, v.y};
  }
}

// What a chain of folds would compute one after another, as a scan over lanes: lane i has the i-th
// result's statistics (past the last: no token), and gets what it and those before it are worth.
struct FoldStep {
  float peak;   // of all up to this
  float before;
  float after;
  float total;  // of this one's weights, as they count
};

__device__ inline FoldStep fold_step(float first_peak, float2 mine) {
  constexpr unsigned kAll = 0xFFFFFFFFU;
  const auto lane = static_cast<int32_t>(threadIdx.x % 32);
  float peak = fmaxf(first_peak, mine.x);
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const float x = __shfl_up_sync(kAll, peak, offset);
    if (lane >= offset) peak = fmaxf(peak, x);
  }
  const float before_peak = __shfl_up_sync(kAll, peak, 1);
  const FoldWeights w = fold_weights(lane == 0 ? first_peak : before_peak, mine.x);
  return {peak, w.before, w.after, __fmul_rn(mine.y, w.after)};
}

// The i-th result's sums.
template <int kEach>
__device__ void add_step(const FoldStep& step, int32_t i, const LaneFloats<kEach>& sums,
                         GqaPartial<kEach>& to) {
  constexpr unsigned kAll = 0xFFFFFFFFU;
  const float before = __shfl_sync(kAll, step.before, i);
  const float after = __shfl_sync(kAll, step.after, i);
  to.total = __fmaf_rn(to.total, before, __shfl_sync(kAll, step.total, i));
#pragma unroll
  for (int d = 0; d < kEach; ++d)
    to.sum[d] = __fmaf_rn(to.sum[d], before, __fmul_rn(sums.x[d], after));
}

// Folds up to 16 results into `to`: `sums` of all, lane i has the i-th's statistics in `mine` (past
// the last: no token).
template <int kEach>
__device__ void fold_all(const LaneFloats<kEach> (&sums)[kGqaSegmentChunks], float2 mine,
                         GqaPartial<kEach>& to) {
  const FoldStep step = fold_step(to.peak, mine);
#pragma unroll
  for (int32_t i = 0; i < kGqaSegmentChunks; ++i) add_step(step, i, sums[i], to);
  to.peak = __shfl_sync(0xFFFFFFFFU, step.peak, 31);
}

// The same of results in global memory: lane i knows the slot of the i-th. All are asked for at
// once.
template <int kEach>
__device__ void fold_slots(const GqaDecodeArgs& a, int32_t slot, int32_t count, int32_t pair,
                           GqaPartial<kEach>& to) {
  constexpr unsigned kAll = 0xFFFFFFFFU;
  const auto lane = static_cast<int32_t>(threadIdx.x % 32);
  LaneFloats<kEach> sums[kGqaSegmentChunks];
#pragma unroll
  for (int32_t i = 0; i < kGqaSegmentChunks; ++i) {
    const int32_t there = __shfl_sync(kAll, slot, i);
    sums[i] = LaneFloats<kEach>{};
    if (i < count) sums[i] = read_sums<kEach>(a, there, pair);
  }
  float2 mine{-INFINITY, 0.0F};
  if (lane < count) mine = __ldcg(a.statistics + int64_t{slot} * a.pairs + pair);
  fold_all(sums, mine, to);
}

// Slots of a block of threads: chunks of a segment that began before its share, of the last one
// that began in it, whole segments of a stream that began before, that last segment, and the whole
// segments that a stream begins with.
__device__ inline int32_t chunk_slot(const GqaDecodeArgs& a, int32_t block, int32_t chunk,
                                     bool began_before) {
  return block * a.slots_per_block + (began_before ? 0 : kGqaSegmentChunks) +
         chunk % kGqaSegmentChunks;
}
__device__ inline int32_t segment_slot(const GqaDecodeArgs& a, int32_t block, int32_t segment) {
  return block * a.slots_per_block + 2 * kGqaSegmentChunks + segment;
}
__device__ inline int32_t last_segment_slot(const GqaDecodeArgs& a, int32_t block) {
  return segment_slot(a, block, a.segments_max);
}
__device__ inline int32_t prefix_slot(const GqaDecodeArgs& a, int32_t block) {
  return segment_slot(a, block, a.segments_max + 1);
}

// Says that `count` partial results are written; whether they were the last of `all`, so that
// everybody's can be read. By all threads that compute.
__device__ inline bool arrive(int32_t* counter, int32_t count, int32_t all, int32_t* last) {
  compute_barrier();
  if (threadIdx.x == 0) {
    int32_t before;
    asm volatile("atom.acq_rel.gpu.global.add.s32 %0, [%1], %2;"
                 : "=r"(before)
                 : "l"(counter), "r"(count)
                 : "memory");
    *last = before + count == all ? 1 : 0;
  }
  compute_barrier();
  return *last != 0;
}

// Where the chunks [begin, end) of one segment are: lane i's is the i-th's slot.
__device__ inline int32_t slots_of_chunks(const GqaDecodeArgs& a, const GqaShare& s,
                                          const GqaRun& run, int32_t begin, int32_t end) {
  const auto lane = static_cast<int32_t>(threadIdx.x % 32);
  const int32_t chunk = min(begin + lane, end - 1);
  const int32_t block = share_of(s, run.granule(chunk));
  const int32_t first_block = __shfl_sync(0xFFFFFFFFU, block, 0);
  return chunk_slot(a, block, chunk, block != first_block);
}

// Where a stream's result `index` is, of those that several blocks computed: whole segments in the
// share of the row's first block, `prefix` of them, are one result.
__device__ inline int32_t slots_of_segments(const GqaDecodeArgs& a, const GqaShare& s,
                                            const GqaRun& run, int32_t prefix, int32_t index) {
  const int32_t segment = min(prefix + index - (prefix > 0 ? 1 : 0), run.segments() - 1);
  if (prefix > 0 && index == 0) return prefix_slot(a, share_of(s, run.base));
  const int32_t first = segment * kGqaSegmentChunks;
  const int32_t last = min(first + kGqaSegmentChunks, run.chunks) - 1;
  const int32_t block = share_of(s, run.granule(first));
  const bool whole = share_of(s, run.granule(last)) == block;
  return whole ? segment_slot(a, block, segment) : last_segment_slot(a, block);
}

// One pair's values to its row, as their consumer wants them.
template <int kDims>
__device__ void write_pair(const GqaDecodeArgs& a, int64_t token, int32_t head,
                           const GqaPartial<kDims / 32>& p) {
  constexpr int kEach = kDims / 32;
  const uint32_t lane = threadIdx.x % 32;
  const int64_t at = token * a.out.stride + head * kDims + lane * kEach;
  if (a.out.format == Format::kBF16) {
    LaneNumbers<kEach> row;
#pragma unroll
    for (int d = 0; d < kEach; ++d) row.x[d] = __float2bfloat16_rn(p.sum[d] / p.total);
    *reinterpret_cast<LaneNumbers<kEach>*>(
        static_cast<__nv_bfloat16*>(a.out.data) + at) = row;
    return;
  }
  if (a.out.format != Format::kFp8) {
#pragma unroll 1
    for (int d = 0; d < kEach; ++d)
      store_number(a.out.data, a.out.format, at + d, p.sum[d] / p.total);
    return;
  }
  float values[kEach];
  float most = 1e-4F;
#pragma unroll
  for (int d = 0; d < kEach; ++d) {
    values[d] = round_number(Format::kBF16, p.sum[d] / p.total);
    most = fmaxf(most, fabsf(values[d]));
  }
  for (int offset = 16; offset > 0; offset /= 2)
    most = fmaxf(most, __shfl_xor_sync(0xFFFFFFFFU, most, offset));
  float scale = most / 448.0F;
  if (a.out.ue8m0)  // up to a power of two
    scale = __uint_as_float((__float_as_uint(scale) + 0x7FFFFFU) & 0x7F800000U);
#pragma unroll
  for (int d = 0; d < kEach; ++d)
    static_cast<uint8_t*>(a.out.data)[at + d] =
        __nv_cvt_float_to_fp8(values[d] / scale, __NV_SATFINITE, __NV_E4M3);
  if (lane == 0) a.out.scales[token * a.out.scale_stride + head] = scale;
}

}  // namespace fathom::kernels
