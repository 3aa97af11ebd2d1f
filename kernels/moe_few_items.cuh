// What the blocks of the two products share: their memory, the items that they walk, and the lists
// of who chose which expert.
#pragma once

#include "moe_few.h"
#include "moe_few_choose.cuh"
#include "moe_few_parts.cuh"
#include "ring_place.cuh"

namespace fathom::kernels {

constexpr int kMoeMathThreads = 128;
constexpr int kMoeHelpers = 128;
constexpr int kMoeFewThreads = kMoeMathThreads + kMoeHelpers + 32;

// A block's shared memory.
struct MoeFewShared {
  uint8_t* ring;        // [stages][64 rows][128]
  uint8_t* x;           // [sets][steps][tokens][128], swizzled
  float* x_scales;      // [sets][steps][tokens]
  float* w_scales;      // [2][2][steps] of the two items at hand: gate (or down), up
  uint64_t* full;       // [stages]
  uint64_t* empty;      // [stages]
  uint64_t* item_full;  // [2]
  uint64_t* item_empty;
  uint64_t* x_full;
  uint64_t* known;   // [kMoeClaims] the block's items, as they are given out
  int32_t* claims;   // [kMoeClaims] or -1: no more
  int32_t* ids;      // [tokens][32] choices, where each block makes them
  float* scratch;    // [tokens][router's experts], likewise
  uint32_t* takers;  // [experts] bits of tokens
  int32_t* listed;   // [1] experts that have tokens
  uint8_t* places;   // [helper warps][32] tokens of the item at hand
  uint16_t* slots;   // [experts] them
  uint8_t* choices;  // [experts][tokens] which of the token's choices it is

  __device__ MoeFewShared(uint8_t* base, const MoeFewPlan& p, const MoeFew& m, int32_t sets) {
    const int32_t experts = m.experts_here;
    const bool chooses = moe_choose_everywhere(m.tokens);
    ring = base;
    x = ring + p.stages * kMoeStageBytes;
    const int32_t rows = sets * p.steps * p.token_tile;
    x_scales = reinterpret_cast<float*>(x + rows * kMoeStepBytes);
    w_scales = x_scales + rows;
    full = reinterpret_cast<uint64_t*>(w_scales + 4 * p.steps);
    empty = full + kMoeStagesMax;
    item_full = empty + kMoeStagesMax;
    item_empty = item_full + 2;
    x_full = item_empty + 2;
    known = x_full + 1;
    claims = reinterpret_cast<int32_t*>(known + kMoeClaims);
    ids = claims + kMoeClaims;
    scratch = reinterpret_cast<float*>(ids + (chooses ? m.tokens * 32 : 0));
    takers = reinterpret_cast<uint32_t*>(scratch + (chooses ? m.tokens * m.router.experts : 0));
    listed = reinterpret_cast<int32_t*>(takers + experts);
    places = reinterpret_cast<uint8_t*>(listed + 1);
    slots = reinterpret_cast<uint16_t*>(places + 128);
    choices = reinterpret_cast<uint8_t*>(slots + experts);
  }
};

// One item: `tile` of `slot` (shared parts first, then experts that have tokens).
struct MoeItem {
  int32_t expert;  // in MoeFew::experts
  int32_t part;    // of the shared expert, or -1
  int32_t tile;
  uint32_t tokens;  // bits
};

template <bool kDown>
struct MoeItems {
  const MoeFew& m;
  const MoeFewShared& sh;
  int32_t tiles;

  __device__ MoeItems(const MoeFew& args, const MoeFewShared& shared)
      : m(args), sh(shared), tiles(kDown ? args.hidden / 64 : args.width / 32) {}
  __device__ int32_t ahead() const { return m.shared_parts * tiles; }  // known before routing
  __device__ int32_t count() const { return ahead() + *sh.listed * tiles; }
  __device__ MoeItem get(int32_t i) const {
    const int32_t slot = i / tiles;
    const int32_t tile = i - slot * tiles;
    if (slot < m.shared_parts) return {m.experts_here, slot, tile, 0xFFFFFFFFU >> (32 - m.tokens)};
    const int32_t e = sh.slots[slot - m.shared_parts];
    return {e, -1, tile, sh.takers[e]};
  }
  // Of the rows between the kernels.
  __device__ int64_t row(const MoeItem& item, int32_t token) const {
    const int32_t k = m.router.experts_per_token;
    if (item.part >= 0) return int64_t{m.tokens} * (k + item.part) + token;
    return token * k + sh.choices[item.expert * moe_token_tile(m.tokens) + token];
  }
};

// A warp a token makes the choices; one block of gate_up writes them for the last kernel.
__device__ inline void choose_all(const MoeFew& m, const MoeFewShared& sh, const uint32_t* posts,
                                  bool writes) {
  const auto token = static_cast<int32_t>(threadIdx.x / 32);
  if (token >= m.tokens) return;
  const int32_t k = m.router.experts_per_token;
  const int32_t at = token * m.router.experts;
  if (posts != nullptr) posts += at;
  const Chosen mine = choose_experts(m.router, m.scores + at, posts, m.bias, sh.scratch + at);
  if (static_cast<int32_t>(threadIdx.x % 32) >= k) return;
  const int32_t e = mine.expert - m.first_expert;
  const bool here = m.token_valid[token] != 0 && e >= 0 && e < m.experts_here;
  sh.ids[token * 32 + mine.place] = here ? e : -1;
  if (!writes) return;
  m.ids[token * k + mine.place] = here ? e : -1;
  m.weights[token * k + mine.place] = mine.weight;
}

// Which experts have tokens, from the choices. By all threads. posts: as choose_experts has them.
template <int kTokens, bool kDown>
__device__ void list_experts(const MoeFew& m, const MoeFewShared& sh, const uint32_t* posts) {
  const auto thread = static_cast<int32_t>(threadIdx.x);
  const int32_t k = m.router.experts_per_token;
  const int32_t tile = moe_token_tile(m.tokens);
  constexpr bool kChooses = moe_choose_everywhere(kTokens);
  for (int32_t e = thread; e < m.experts_here; e += kMoeFewThreads) sh.takers[e] = 0;
  if constexpr (kChooses) choose_all(m, sh, posts, !kDown && blockIdx.x == 0);
  __syncthreads();
  for (int32_t p = thread; p < m.tokens * k; p += kMoeFewThreads) {
    const int32_t token = p / k;
    const int32_t e = kChooses ? sh.ids[token * 32 + p - token * k] : __ldcg(m.ids + p);
    if (e < 0) continue;
    atomicOr(&sh.takers[e], 1U << token);
    sh.choices[e * tile + token] = static_cast<uint8_t>(p - token * k);
  }
  __syncthreads();
  if (thread < 32) {
    int32_t listed = 0;
    for (int32_t base = 0; base < m.experts_here; base += 32) {
      const int32_t e = base + thread;
      const bool active = e < m.experts_here && sh.takers[e] != 0;
      const uint32_t all = __ballot_sync(0xFFFFFFFFU, active);
      if (active) sh.slots[listed + __popc(all & ((1U << thread) - 1U))] = static_cast<uint16_t>(e);
      listed += __popc(all);
    }
    if (thread == 0) *sh.listed = listed;
  }
  __syncthreads();
}

}  // namespace fathom::kernels
