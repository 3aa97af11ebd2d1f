// Keys and values of a slice of the rows' contexts, made from their latents: [128 tokens, 512] of a
// block stay in shared memory while the up-projections' tiles of 128 rows pass by. One warp copies,
// two warpgroups of 64 tokens each compute. The rope of a query is turned beside it.
#pragma once

#include "number.cuh"
#include "prefill_store.cuh"

namespace fathom::kernels {

inline constexpr int kExpandThreads = 288;
inline constexpr uint32_t kExpandStages = 5;
inline constexpr int kLatentTiles = 8;  // of 64 columns
inline constexpr int32_t kLatent = kLatentTiles * 64;

struct ExpandShared {
  alignas(1024) uint8_t latents[kLatentTiles][kPrefillTileBytes];
  alignas(1024) uint8_t weights[kExpandStages][kPrefillTileBytes];
  uint64_t latent_full[kLatentTiles];
  uint64_t weight_full[kExpandStages];
  uint64_t weight_free[kExpandStages];
};

struct ExpandArgs {
  PrefillRows rows;
  int32_t heads = 0;       // of the group: so many tiles of keys, then of values
  int32_t first_head = 0;  // of the model's
  int32_t parts = 1;       // blocks that share a tile of tokens
  int32_t slice_begin = 0;
  bool spread = false;           // the latents are this slice's, tile by tile, not pages
  __nv_bfloat16* out = nullptr;  // [tiles of the slice * 128, 2 * heads * 128]

  __device__ int32_t first_tile(int32_t part) const { return 2 * heads * part / parts; }
};

// 64 latent columns of a head's 128 rows: a tile of 128 rows, or across, two of 64.
template <bool kAcross>
__device__ void expand_copy_weights(ExpandShared& s, const CUtensorMap* map, int32_t head,
                                    int32_t k, uint32_t index) {
  uint64_t* full = &s.weight_full[index];
  if constexpr (kAcross) {
    for (int half = 0; half < 2; ++half)
      copy_tile(s.weights[index] + half * (kPrefillTileBytes / 2), map, full, half * 64,
                head * kLatent + k * 64);
  } else {
    copy_tile(s.weights[index], map, full, k * 64, head * 128);
  }
}

template <bool kKeyAcross>
__device__ void expand_copy(const ExpandArgs& a, ExpandShared& s, const CUtensorMap* cache,
                            const CUtensorMap* up_key, const CUtensorMap* up_value,
                            const PrefillPlace& place, int32_t part) {
  const int32_t seen = a.rows.context[place.row] + a.rows.query[place.row];
  const int32_t last = (seen - 1) / kPrefillBlockTokens;
  const int32_t* table = a.rows.block_table + a.rows.slot[place.row] * a.rows.table_stride;
  const int32_t in_slice = (place.keys_before + place.tile - a.slice_begin) * 2;
  const int32_t pages[2] = {a.spread ? in_slice : table[min(place.tile * 2, last)],
                            a.spread ? in_slice + 1 : table[min(place.tile * 2 + 1, last)]};
  RingPlace<kExpandStages> at;
  for (int32_t tile = a.first_tile(part); tile < a.first_tile(part + 1); ++tile) {
    const bool is_key = tile < a.heads;
    const int32_t head = a.first_head + (is_key ? tile : tile - a.heads);
    for (int k = 0; k < kLatentTiles; ++k) {
      if (tile == a.first_tile(part)) {
        barrier_expect(&s.latent_full[k], kPrefillTileBytes);
        for (int half = 0; half < 2; ++half)
          copy_page_tile(s.latents[k] + half * (kPrefillTileBytes / 2), cache, &s.latent_full[k], k,
                         pages[half]);
      }
      barrier_wait(&s.weight_free[at.index], at.phase ^ 1U);
      barrier_expect(&s.weight_full[at.index], kPrefillTileBytes);
      if (is_key) {
        expand_copy_weights<kKeyAcross>(s, up_key, head, k, at.index);
      } else {
        expand_copy_weights<false>(s, up_value, head, k, at.index);
      }
      at.advance();
    }
  }
}

template <bool kAcross>
__device__ void expand_step(float (&sums)[64], uint32_t latents, uint32_t weights, bool fresh) {
#pragma unroll
  for (uint32_t step = 0; step < 4; ++step) {
    const uint64_t b = kAcross
                           ? prefill_tile_across<kPrefillTileBytes / 2>(weights + step * 16 * 128)
                           : wgmma_tile(weights + step * 32);
    multiply_rows<kAcross>(sums, wgmma_tile(latents + step * 32), b, fresh && step == 0 ? 0 : 1);
  }
}

// One head's keys or values of this warpgroup's 64 tokens, to `to` [64, ...] of `stride`.
template <bool kAcross>
__device__ void expand_tile(ExpandShared& s, RingPlace<kExpandStages>& at, __nv_bfloat16* to,
                            int64_t stride) {
  const uint32_t latents = shared_address(s.latents[0]) + threadIdx.x / 128 * 64 * 128;
  const auto lane = static_cast<int32_t>(threadIdx.x % 32);
  const bool leader = lane == 0;
  float sums[64];
  uint32_t before = 0;
#pragma unroll 1
  for (int k = 0; k < kLatentTiles; ++k) {
    barrier_wait(&s.latent_full[k], 0);
    barrier_wait(&s.weight_full[at.index], at.phase);
    wgmma_fence();
    expand_step<kAcross>(sums, latents + static_cast<uint32_t>(k) * kPrefillTileBytes,
                         shared_address(s.weights[at.index]), k == 0);
    wgmma_commit();
    if (k > 0) {
      wgmma_wait<1>();
      if (leader) barrier_arrive(&s.weight_free[before]);
    }
    before = at.index;
    at.advance();
  }
  wgmma_wait<0>();
  wgmma_use(sums);
  if (leader) barrier_arrive(&s.weight_free[before]);
#pragma unroll
  for (int r = 0; r < 2; ++r)
    prefill_store_bf16<2>(sums, r, 1.0F, to + (lane / 4 + r * 8) * stride, true);
}

template <bool kKeyAcross>
__device__ void expand_compute(const ExpandArgs& a, ExpandShared& s, int32_t slice_tile,
                               int32_t part) {
  const int64_t stride = int64_t{a.heads} * 256;
  const int64_t token = int64_t{slice_tile} * kPrefillKeyTile + threadIdx.x / 32 * 16;
  __nv_bfloat16* const to = a.out + token * stride;
  RingPlace<kExpandStages> at;
  const int32_t end = a.first_tile(part + 1);
  int32_t tile = a.first_tile(part);
  for (; tile < min(end, a.heads); ++tile)
    expand_tile<kKeyAcross>(s, at, to + int64_t{tile} * 128, stride);
  for (; tile < end; ++tile) expand_tile<false>(s, at, to + int64_t{tile} * 128, stride);
}

// Grid: tiles of the slice times parts. kKeyAcross: the keys' up-projection is [heads, 512, 128],
// else [heads, 128, 512].
template <bool kKeyAcross>
__global__ void __launch_bounds__(kExpandThreads, 1)
    expand_kernel(const __grid_constant__ CUtensorMap cache,
                  const __grid_constant__ CUtensorMap up_key,
                  const __grid_constant__ CUtensorMap up_value,
                  const __grid_constant__ ExpandArgs a) {
  extern __shared__ uint8_t raw[];
  auto& s = *reinterpret_cast<ExpandShared*>(raw + (0U - shared_address(raw)) % 1024U);
  const auto part = static_cast<int32_t>(blockIdx.x) % a.parts;
  const auto slice_tile = static_cast<int32_t>(blockIdx.x) / a.parts;
  const PrefillPlace place = prefill_find<true>(a.rows, a.slice_begin + slice_tile);
  if (place.row < 0) return;
  if (threadIdx.x == 0) {
    for (int k = 0; k < kLatentTiles; ++k) barrier_init(&s.latent_full[k], 1);
    for (uint32_t i = 0; i < kExpandStages; ++i) {
      barrier_init(&s.weight_full[i], 1);
      barrier_init(&s.weight_free[i], 8);
    }
    barrier_init_done();
  }
  __syncthreads();
  if (threadIdx.x < 256) {
    expand_compute<kKeyAcross>(a, s, slice_tile, part);
  } else if (threadIdx.x == 256) {
    expand_copy<kKeyAcross>(a, s, &cache, &up_key, &up_value, place, part);
  }
}

// A block a token: pairs (2 i, 2 i + 1) of every head.
__global__ void rope_queries_kernel(RopeQueries r, Rows q, __nv_bfloat16* out) {
  const int64_t t = blockIdx.x;
  if (r.token_valid[t] == 0 || r.token_row[t] < r.first_row) return;
  const int64_t at = r.positions[t] * r.rope_stride;
  for (int n = static_cast<int>(threadIdx.x); n < r.heads * 32; n += static_cast<int>(blockDim.x)) {
    const int i = n % 32;
    const int64_t from = t * q.stride + int64_t{n} / 32 * 192 + 128 + 2 * i;
    const float even = load_number(q.data, q.format, from);
    const float odd = load_number(q.data, q.format, from + 1);
    const float c = r.cosines[at + i];
    const float sine = r.sines[at + i];
    const uint32_t pair = pack_pair(even * c - odd * sine, even * sine + odd * c);
    *reinterpret_cast<uint32_t*>(out + (t * r.heads + n / 32) * 64 + 2 * i) = pair;
  }
}

}  // namespace fathom::kernels
