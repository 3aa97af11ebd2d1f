// Puts together the states of blocks that shared a tile's keys, in the order of their shares.
#pragma once

#include "prefill_core.cuh"

namespace fathom::kernels {

// to += from. Weights are relative to whole powers of two: exact but for the additions.
template <int kTiles>
__device__ void prefill_add_state(PrefillState<kTiles>& to, const PrefillState<kTiles>& from) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float peak = fmaxf(to.peak[r], from.peak[r]);
    const float shift = peak == -INFINITY ? 0.0F : peak;
    const float before = exp2_fast(to.peak[r] - shift);
    const float now = exp2_fast(from.peak[r] - shift);
    to.peak[r] = peak;
    to.total[r] = fmaf(from.total[r], now, to.total[r] * before);
#pragma unroll
    for (int i = 0; i < kTiles * 16; ++i) {
      float& sum = to.sums[i / 2 * 4 + r * 2 + i % 2];
      sum = fmaf(from.sums[i / 2 * 4 + r * 2 + i % 2], now, sum * before);
    }
  }
}

// A block a tile and head, its threads as those that computed the states.
template <int kTiles>
__global__ void __launch_bounds__(256, 1)
    prefill_join_kernel(const __grid_constant__ PrefillArgs a) {
  const auto head = static_cast<int32_t>(blockIdx.x) % a.heads;
  const int32_t tile = static_cast<int32_t>(blockIdx.x) / a.heads;
  const PrefillPlace place = prefill_find<false>(a.rows, tile);
  if (place.row < 0) return;
  const PrefillWork w = prefill_work(a, place);
  if (w.padding()) return;
  PrefillState<kTiles> sum;
  prefill_load_state(a, tile, head, sum);
  for (int32_t split = 1; split < a.splits; ++split) {
    PrefillState<kTiles> state;
    prefill_load_state(a, split * a.query_tiles + tile, head, state);
    prefill_add_state(sum, state);
  }
  prefill_store_rows(a, w, head, sum);
}

}  // namespace fathom::kernels
