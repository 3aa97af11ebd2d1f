// Prefill attention on the tensor cores: a block works on 128 queries of one row and head, and goes
// over the row's cached tokens, 128 at a time, from the first to the last that they see. One warp
// copies; two warpgroups of 64 queries each compute scores (both operands in shared memory), the
// running softmax and the weighted values (weights in registers). Within a warpgroup the scores of
// a step run under the softmax of the step before it, and the two warpgroups take turns at the
// tensor cores (both after FlashAttention-3; see docs/kernels/prefill_attention.md).
#pragma once

#include "prefill_rows.cuh"
#include "prefill_store.cuh"

namespace fathom::kernels {

inline constexpr int kPrefillThreads = 384;  // two warpgroups that compute, and one that copies
inline constexpr uint32_t kPrefillStages = 2;

// kTiles: of 64 columns, of a head's values. kRope: keys have 64 more columns, of all heads.
template <int kTiles, bool kRope>
struct PrefillShared {
  static constexpr int kKeyTiles = kTiles + (kRope ? 1 : 0);

  alignas(1024) uint8_t queries[kKeyTiles * kPrefillTileBytes];
  alignas(1024) uint8_t keys[kPrefillStages][kKeyTiles * kPrefillTileBytes];
  alignas(1024) uint8_t values[kPrefillStages][kTiles * kPrefillTileBytes];
  uint64_t query_full;
  uint64_t key_full[kPrefillStages];
  uint64_t key_free[kPrefillStages];
  uint64_t value_full[kPrefillStages];
  uint64_t value_free[kPrefillStages];
  uint64_t value_landed;  // of a row's last tile, before it is cleared past the row's end
};

struct PrefillMaps {
  CUtensorMap queries;
  CUtensorMap rope_queries;
  CUtensorMap entries;  // keys of all heads, then values
  CUtensorMap rope_keys;
};

// The copying warp's view of a block's work.
template <int kTiles, bool kRope>
struct PrefillCopier {
  const PrefillArgs& a;
  PrefillShared<kTiles, kRope>& s;
  const PrefillMaps& maps;
  const PrefillWork& w;
  int32_t head;
  bool leader;

  // Pages past the row's end are its last one: their tokens are seen by nobody.
  __device__ int32_t page(int32_t tile, int half) const {
    if (a.spread) return in_slice(tile, half);
    const int32_t last = (w.context + w.query - 1) / kPrefillBlockTokens;
    return a.rows
        .block_table[a.rows.slot[w.row] * a.rows.table_stride + min(tile * 2 + half, last)];
  }

  __device__ int32_t in_slice(int32_t tile, int half) const { return (w.offset + tile) * 2 + half; }

  __device__ int32_t entries_of(int32_t tile, int half) const {
    return kRope ? in_slice(tile, half) : page(tile, half);
  }

  __device__ void queries() const {
    constexpr int kKeyTiles = PrefillShared<kTiles, kRope>::kKeyTiles;
    barrier_expect(&s.query_full, kKeyTiles * kPrefillTileBytes);
    const int32_t row = w.token + w.first_query;
    const int32_t of = a.first_head + head;
    for (int c = 0; c < kTiles; ++c)
      copy_tile(s.queries + c * kPrefillTileBytes, &maps.queries, &s.query_full,
                of * a.query_columns + c * 64, row);
    if constexpr (kRope)
      copy_tile(s.queries + kTiles * kPrefillTileBytes, &maps.rope_queries, &s.query_full, of * 64,
                row);
  }

  __device__ void keys(int32_t tile, const RingPlace<kPrefillStages>& at) const {
    constexpr int kKeyTiles = PrefillShared<kTiles, kRope>::kKeyTiles;
    barrier_wait(&s.key_free[at.index], at.phase ^ 1U);
    if (!leader) return;
    uint64_t* full = &s.key_full[at.index];
    barrier_expect(full, kKeyTiles * kPrefillTileBytes);
    const int32_t kv_head = head / (a.heads / a.kv_heads);
    for (int half = 0; half < 2; ++half) {
      uint8_t* to = s.keys[at.index] + half * (kPrefillTileBytes / 2);
      const int32_t entries = entries_of(tile, half);
      for (int c = 0; c < kTiles; ++c)
        copy_page_tile(to + c * kPrefillTileBytes, &maps.entries, full, kv_head * kTiles + c,
                       entries);
      if constexpr (kRope)
        copy_page_tile(to + kTiles * kPrefillTileBytes, &maps.rope_keys, full, 8, page(tile, half));
    }
  }

  // Tokens past a row's end may hold anything that an earlier sequence left: 0 times that must be
  // 0.
  __device__ void clear(uint8_t* values, int32_t first) const {
    const auto lane = static_cast<int32_t>(threadIdx.x % 32);
    for (int32_t i = first * 8 + lane; i < kPrefillKeyTile * 8; i += 32) {
#pragma unroll
      for (int c = 0; c < kTiles; ++c)
        *reinterpret_cast<uint4*>(values + c * kPrefillTileBytes + i * 16) = uint4{0, 0, 0, 0};
    }
    publish_to_async();
    __syncwarp();
  }

  __device__ void values(int32_t tile, const RingPlace<kPrefillStages>& at) const {
    barrier_wait(&s.value_free[at.index], at.phase ^ 1U);
    const int32_t seen = w.context + w.query - tile * kPrefillKeyTile;
    const bool unclean = seen < kPrefillKeyTile;
    uint64_t* full = unclean ? &s.value_landed : &s.value_full[at.index];
    uint8_t* to = s.values[at.index];
    if (leader) {
      barrier_expect(full, kTiles * kPrefillTileBytes);
      const int32_t kv_head = head / (a.heads / a.kv_heads);
      for (int half = 0; half < 2; ++half) {
        const int32_t entries = entries_of(tile, half);
        for (int c = 0; c < kTiles; ++c)
          copy_page_tile(to + c * kPrefillTileBytes + half * (kPrefillTileBytes / 2), &maps.entries,
                         full, (a.kv_heads + kv_head) * kTiles + c, entries);
      }
    }
    if (!unclean) return;
    barrier_wait(full, 0);
    clear(to, seen);
    if (leader) barrier_arrive(&s.value_full[at.index]);
  }

  __device__ void run() const {
    if (leader) queries();
    RingPlace<kPrefillStages> key_at;
    RingPlace<kPrefillStages> value_at;
    keys(w.begin, key_at);
    key_at.advance();
    for (int32_t tile = w.begin; tile < w.end; ++tile) {
      if (tile + 1 < w.end) {
        keys(tile + 1, key_at);
        key_at.advance();
      }
      values(tile, value_at);
      value_at.advance();
    }
  }
};

// A thread's two rows: 16 warp + lane / 4 and 8 more.
template <int kTiles>
struct PrefillState {
  float sums[kTiles * 32];
  uint32_t weights[32];  // of the last step, bf16
  float peak[2];
  float total[2];  // of weights that this thread computed
  int32_t visible[2];
};

template <int kKeyTiles>
__device__ void prefill_scores(uint32_t queries, uint32_t keys, float (&scores)[64]) {
#pragma unroll
  for (uint32_t step = 0; step < kKeyTiles * 4; ++step) {
    const uint32_t at = step / 4 * kPrefillTileBytes + step % 4 * 32;
    multiply_rows(scores, wgmma_tile(queries + at), wgmma_tile(keys + at), step == 0 ? 0 : 1);
  }
}

template <int kTiles>
__device__ void prefill_values(PrefillState<kTiles>& state, uint32_t values) {
#pragma unroll
  for (uint32_t step = 0; step < 8; ++step)
    multiply_values(state.sums, state.weights + step * 4,
                    prefill_tile_across(values + step * 16 * 128));
}

// Scores become weights relative to the new peak; their sums join the total. Until a row has seen a
// token its peak is infinite, and its weights are 0. Peaks are whole powers of two: moving one
// changes no bit of a weight that was rounded (docs/numerics.md).
template <int kTiles>
__device__ void prefill_softmax(const PrefillArgs& a, PrefillState<kTiles>& state,
                                float (&scores)[64], int32_t first_token, bool edge,
                                float (&fade)[2]) {
  if (edge) {
    const int32_t mine = first_token + static_cast<int32_t>(threadIdx.x % 4) * 2;
#pragma unroll
    for (int i = 0; i < 64; ++i) {
      if (mine + i / 4 * 8 + i % 2 >= state.visible[i / 2 % 2]) scores[i] = -INFINITY;
    }
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float most = scores[r * 2];
#pragma unroll
    for (int i = 1; i < 32; ++i) most = fmaxf(most, scores[i / 2 * 4 + r * 2 + i % 2]);
    most = fmaxf(most, __shfl_xor_sync(0xFFFFFFFFU, most, 1));
    most = fmaxf(most, __shfl_xor_sync(0xFFFFFFFFU, most, 2));
    const float peak = fmaxf(state.peak[r], ceilf(most * a.scale_log2));
    const float shift = peak == -INFINITY ? 0.0F : peak;
    fade[r] = exp2_fast(state.peak[r] - shift);
    state.peak[r] = peak;
    float sum = 0.0F;
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      float& score = scores[i / 2 * 4 + r * 2 + i % 2];
      score = exp2_fast(fmaf(score, a.scale_log2, -shift));
      sum += score;
    }
    state.total[r] = fmaf(state.total[r], fade[r], sum);
  }
}

template <int kTiles>
__device__ void prefill_fade(PrefillState<kTiles>& state, const float (&fade)[2]) {
#pragma unroll
  for (int i = 0; i < kTiles * 32; ++i) state.sums[i] *= fade[i / 2 % 2];
}

template <int kTiles>
__device__ void prefill_pack(PrefillState<kTiles>& state, const float (&scores)[64]) {
#pragma unroll
  for (int i = 0; i < 32; ++i) state.weights[i] = pack_pair(scores[i * 2], scores[i * 2 + 1]);
  // Here, and not between the products that follow.
  wgmma_use(state.weights);
  wgmma_use(state.sums);
}

// The state that a slice leaves to the next: by thread, so that nothing is added in another order.
// `place`: the tile, after those of the splits before.
template <int kTiles, typename Move>
__device__ void prefill_carry(const PrefillArgs& a, int32_t place, int32_t head,
                              PrefillState<kTiles>& state, Move&& move) {
  float* at = a.carry + (int64_t{place} * a.heads + head) * kPrefillCarryFloats + threadIdx.x;
#pragma unroll
  for (int i = 0; i < kTiles * 32; ++i) move(at[i * 256], state.sums[i]);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    move(at[(kTiles * 32 + r) * 256], state.peak[r]);
    move(at[(kTiles * 32 + 2 + r) * 256], state.total[r]);
  }
}

template <int kTiles>
__device__ void prefill_clear(PrefillState<kTiles>& state) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    state.peak[r] = -INFINITY;
    state.total[r] = 0.0F;
  }
#pragma unroll
  for (int i = 0; i < kTiles * 32; ++i) state.sums[i] = 0.0F;
}

template <int kTiles>
__device__ void prefill_load_state(const PrefillArgs& a, int32_t place, int32_t head,
                                   PrefillState<kTiles>& state) {
  prefill_carry(a, place, head, state, [](const float& from, float& to) { to = from; });
}

template <int kTiles>
__device__ void prefill_store_state(const PrefillArgs& a, int32_t place, int32_t head,
                                    PrefillState<kTiles>& state) {
  prefill_carry(a, place, head, state, [](float& to, const float& from) { to = from; });
}

template <int kTiles>
__device__ void prefill_begin(const PrefillArgs& a, const PrefillWork& w, int32_t place,
                              int32_t head, PrefillState<kTiles>& state) {
  const int32_t inside =
      static_cast<int32_t>(threadIdx.x) / 32 * 16 + static_cast<int32_t>(threadIdx.x) % 32 / 4;
#pragma unroll
  for (int r = 0; r < 2; ++r) state.visible[r] = w.context + w.first_query + inside + r * 8 + 1;
  prefill_clear(state);
  if (!w.fresh) prefill_load_state(a, place, head, state);
}

// Named barriers 1 and 2: a warpgroup waits for its turn to issue products, then gives the other
// its turn.
__device__ inline void prefill_wait_turn(int group) {
  asm volatile("bar.sync %0, 256;" ::"r"(1 + group) : "memory");
}
__device__ inline void prefill_give_turn(int group) {
  asm volatile("bar.arrive %0, 256;" ::"r"(2 - group) : "memory");
}

template <int kTiles>
__device__ void prefill_store_rows(const PrefillArgs& a, const PrefillWork& w, int32_t head,
                                   PrefillState<kTiles>& state) {
  float factor[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float total = state.total[r];
    total += __shfl_xor_sync(0xFFFFFFFFU, total, 1);
    total += __shfl_xor_sync(0xFFFFFFFFU, total, 2);
    factor[r] = 1.0F / total;
  }
  prefill_store<kTiles>(a, w, a.first_head + head, state.sums, factor);
}

// The rows' results, or what the next slice or the join goes on from.
template <int kTiles>
__device__ void prefill_finish(const PrefillArgs& a, const PrefillWork& w, int32_t place,
                               int32_t head, PrefillState<kTiles>& state) {
  if (w.last && a.splits == 1) {
    prefill_store_rows(a, w, head, state);
  } else {
    prefill_store_state(a, place, head, state);
  }
}

// One of the two warpgroups that compute, on its way over the row's keys.
template <int kTiles, bool kRope>
struct PrefillWalk {
  static constexpr int kKeyTiles = PrefillShared<kTiles, kRope>::kKeyTiles;
  const PrefillArgs& a;
  PrefillShared<kTiles, kRope>& s;
  int group;
  bool leader;
  uint32_t queries;  // where this warpgroup's lie
  int32_t last;      // the last tile
  RingPlace<kPrefillStages> key_at;
  RingPlace<kPrefillStages> value_at;

  // The first tile, whose scores no values run beside.
  __device__ void begin(int32_t tile, bool edge, PrefillState<kTiles>& state) {
    float scores[64];
    float fade[2];
    barrier_wait(&s.query_full, 0);
    barrier_wait(&s.key_full[0], 0);
    wgmma_fence();
    prefill_scores<kKeyTiles>(queries, shared_address(s.keys[0]), scores);
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_use(scores);
    if (leader) barrier_arrive(&s.key_free[0]);
    key_at.advance();
    prefill_softmax(a, state, scores, tile * kPrefillKeyTile, edge, fade);
    prefill_fade(state, fade);
    prefill_pack(state, scores);
  }

  // Tiles [tile, end): the scores of each, and the values of the one before. kEdge: some of its
  // tokens are not seen by all queries. `edge` is code of its own, as most tiles have none.
  template <bool kEdge>
  __device__ void steps(int32_t tile, int32_t end, PrefillState<kTiles>& state) {
    for (; tile < end; ++tile) {
      float scores[64];
      float fade[2];
      barrier_wait(&s.key_full[key_at.index], key_at.phase);
      prefill_wait_turn(group);
      wgmma_fence();
      prefill_scores<kKeyTiles>(queries, shared_address(s.keys[key_at.index]), scores);
      wgmma_commit();
      barrier_wait(&s.value_full[value_at.index], value_at.phase);
      wgmma_fence();
      prefill_values(state, shared_address(s.values[value_at.index]));
      wgmma_commit();
      if (group == 0 || tile < last) prefill_give_turn(group);
      wgmma_wait<1>();
      wgmma_use(scores);
      if (leader) barrier_arrive(&s.key_free[key_at.index]);
      key_at.advance();
      prefill_softmax(a, state, scores, tile * kPrefillKeyTile, kEdge, fade);
      wgmma_wait<0>();
      wgmma_use(state.sums);
      wgmma_use(state.weights);
      if (leader) barrier_arrive(&s.value_free[value_at.index]);
      value_at.advance();
      prefill_fade(state, fade);
      prefill_pack(state, scores);
    }
  }

  __device__ void end(PrefillState<kTiles>& state) {
    barrier_wait(&s.value_full[value_at.index], value_at.phase);
    wgmma_fence();
    prefill_values(state, shared_address(s.values[value_at.index]));
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_use(state.sums);
  }
};

template <int kTiles, bool kRope>
__device__ void prefill_compute(const PrefillArgs& a, PrefillShared<kTiles, kRope>& s,
                                const PrefillWork& w, int32_t place, int32_t head) {
  // One for the warp, and known to be: addresses of tiles need no detour.
  const int group = __shfl_sync(0xFFFFFFFFU, static_cast<int>(threadIdx.x / 128), 0);
  const int32_t begin = __shfl_sync(0xFFFFFFFFU, w.begin, 0);
  const int32_t end = __shfl_sync(0xFFFFFFFFU, w.end, 0);
  const int32_t seen_by_all = w.context + w.first_query + group * 64 + 1;
  // From here on tiles have tokens that not all queries see.
  const int32_t edge = __shfl_sync(0xFFFFFFFFU, seen_by_all / kPrefillKeyTile, 0);
  PrefillState<kTiles> state;
  prefill_begin(a, w, place, head, state);
  if (group == 1 && begin + 1 < end) prefill_give_turn(group);
  PrefillWalk<kTiles, kRope> walk{
      a,
      s,
      group,
      threadIdx.x % 32 == 0,
      shared_address(s.queries) + static_cast<uint32_t>(group) * 64 * 128,
      end - 1,
      {},
      {}};
  walk.begin(begin, begin >= edge, state);
  const int32_t whole = max(begin + 1, min(end, edge));
  walk.template steps<false>(begin + 1, whole, state);
  walk.template steps<true>(whole, end, state);
  walk.end(state);
  prefill_finish(a, w, place, head, state);
}

// The largest tiles come first: rows and their tiles from the last on.
template <int kTiles, bool kRope>
__global__ void __launch_bounds__(kPrefillThreads, 1)
    prefill_kernel(const __grid_constant__ PrefillMaps maps,
                   const __grid_constant__ PrefillArgs a) {
  extern __shared__ uint8_t raw[];
  auto& s =
      *reinterpret_cast<PrefillShared<kTiles, kRope>*>(raw + (0U - shared_address(raw)) % 1024U);
  const auto head = static_cast<int32_t>(blockIdx.x) % a.heads;
  const int32_t share = static_cast<int32_t>(blockIdx.x) / a.heads;
  const int32_t split = share % a.splits;
  const int32_t tile = a.query_tiles - 1 - share / a.splits;
  const int32_t state_place = split * a.query_tiles + tile;
  const PrefillPlace place = prefill_find<false>(a.rows, tile);
  if (place.row < 0) return;
  PrefillWork w = prefill_work(a, place);
  if (w.padding()) {
    if (a.slice_begin == 0 && split == 0 && threadIdx.x < 256) {
      float zeros[kTiles * 32];
      const float factor[2] = {0.0F, 0.0F};
      prefill_store<kTiles>(a, w, a.first_head + head, zeros, factor);
    }
    return;
  }
  if (w.begin >= w.end) return;
  prefill_take_share(w, split, a.splits);
  if (w.begin == w.end) {
    if (w.fresh && threadIdx.x < 256) {
      PrefillState<kTiles> nothing;
      prefill_clear(nothing);
      prefill_store_state(a, state_place, head, nothing);
    }
    return;
  }
  if (threadIdx.x == 0) {
    barrier_init(&s.query_full, 1);
    barrier_init(&s.value_landed, 1);
    for (uint32_t i = 0; i < kPrefillStages; ++i) {
      barrier_init(&s.key_full[i], 1);
      barrier_init(&s.key_free[i], 8);
      barrier_init(&s.value_full[i], 1);
      barrier_init(&s.value_free[i], 8);
    }
    barrier_init_done();
  }
  __syncthreads();
  if (threadIdx.x < 256) {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    prefill_compute<kTiles, kRope>(a, s, w, state_place, head);
  } else {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (threadIdx.x < 288) {
      PrefillCopier<kTiles, kRope>{a, s, maps, w, head, threadIdx.x == 256}.run();
    }
  }
}

}  // namespace fathom::kernels
