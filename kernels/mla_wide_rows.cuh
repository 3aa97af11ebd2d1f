// A warpgroup's share of the wide decode-attention kernel: 64 rows of (token, head) pairs, two a
// thread. Scores, softmax, weights through shared memory, products with half of the columns.
#pragma once

#include "mla_decode_common.cuh"
#include "mla_products.cuh"

namespace fathom::kernels {

inline constexpr int kWidePairs = 64;

// How far scores may rise above the peak before the peak follows, base 2: sums are seldom brought
// to a new one. Weights stay below 2 to this, and their rounding does not depend on the peak.
inline constexpr float kWideSlack = 8.0F;

// A thread's two rows: 16 warp + lane / 4 and 8 more.
struct WideSums {
  float sums[128];  // [row, latent column of this warpgroup's half]
};

struct WideState : WideSums {
  float peak[2];        // whole numbers that weights are relative to, base 2
  float total[2];       // this thread's share of this warpgroup's blocks' weights
  int32_t visible[2];   // tokens
  uint32_t rope[4][4];  // the queries' last 64 columns, as a product's left side
};

// Until products under way are complete but for kPending groups; the sums are among the complete.
template <int kPending>
__device__ void wide_wait(WideSums& state) {
  wgmma_wait<kPending>();
#pragma unroll
  for (int i = 0; i < 128; ++i) settle(state.sums[i]);
}

__device__ inline uint32_t wide_fragment(uint32_t tile, uint32_t step) {
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t row = threadIdx.x % 128 / 32 * 16 + lane % 16;
  return tile + row * 128 + ((step * 2 + lane / 16) ^ (row & 7U)) * 16;
}

__device__ inline void wide_load_fragment(uint32_t (&r)[4], uint32_t from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(from)
               : "memory");
}

__device__ inline void wide_load_rope(WideState& state, uint32_t tile) {
#pragma unroll
  for (uint32_t step = 0; step < 4; ++step)
    wide_load_fragment(state.rope[step], wide_fragment(tile, step));
}

__device__ inline void wide_store_weights(const uint32_t (&packed)[4][4], uint32_t tile) {
#pragma unroll
  for (uint32_t step = 0; step < 4; ++step) {
    const uint32_t(&p)[4] = packed[step];
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                     wide_fragment(tile, step)),
                 "r"(p[0]), "r"(p[1]), "r"(p[2]), "r"(p[3])
                 : "memory");
  }
}

// A descriptor's changing half: additions to an address are additions of a sixteenth to it, so that
// a product's operands cost an addition each.
__device__ inline uint32_t wide_place(uint32_t address) {
  return static_cast<uint32_t>(wgmma_tile(address));
}
__device__ inline uint64_t wide_tile(uint32_t place, uint32_t bytes) {
  constexpr uint64_t kHigh = uint64_t{1} << 62 | uint64_t{1024 >> 4} << 32;
  return kHigh | (place + (bytes >> 4));
}
__device__ inline uint64_t wide_tile_across(uint32_t place, uint32_t bytes) {
  constexpr uint32_t kNextColumns = (kTileBytes >> 4) - 1;  // in the place of wgmma_tile's 1
  return wide_tile(place + (kNextColumns << 16), bytes);
}

// Keeps the compiler from making a number's descendants once for all and spilling them.
__device__ inline uint32_t computed_here(uint32_t x) {
  asm volatile("" : "+r"(x));
  return x;
}

// Scores of latent tiles [first, first + 4) of a block; `fresh` scores begin at zero.
template <bool kFresh, uint32_t kFirst>
__device__ void wide_scores(uint32_t block, uint32_t queries, float (&scores)[32]) {
#pragma unroll
  for (uint32_t step = 0; step < 16; ++step) {
    const uint32_t at = (kFirst + step / 4) * kTileBytes + step % 4 * 32;
    Wgmma<Format::kBF16, 64>::run(scores, wide_tile(queries, at), wide_tile(block, at),
                                  kFresh && step == 0 ? 0 : 1);
  }
}

// The rope's part of a block's scores: queries from registers, whose place in shared memory holds
// weights.
__device__ inline void wide_rope_scores(const WideState& state, uint32_t block,
                                        float (&scores)[32]) {
#pragma unroll
  for (uint32_t step = 0; step < 4; ++step)
    multiply_scores(scores, state.rope[step], wide_tile(block, 8 * kTileBytes + step * 32));
}

// Scores become weights relative to the peak, which follows where scores rise too far above it.
// Returns whether sums of this warp must be brought to the new peak, by `fade`.
template <typename Rows>
__device__ bool wide_softmax(const MlaDecodeArgs& a, Rows& state, float (&scores)[32],
                             int32_t first_token, bool edge, float (&fade)[2],
                             uint32_t (&packed)[4][4]) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  if (edge) {
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      if (first_token + i / 4 * 8 + lane % 4 * 2 + i % 2 >= state.visible[i / 2 % 2])
        scores[i] = -INFINITY;
    }
  }
  float most[2] = {scores[0], scores[2]};
#pragma unroll
  for (int i = 0; i < 32; ++i) most[i / 2 % 2] = fmaxf(most[i / 2 % 2], scores[i]);
  bool rises = false;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    most[r] = fmaxf(most[r], __shfl_xor_sync(0xFFFFFFFFU, most[r], 1));
    most[r] = fmaxf(most[r], __shfl_xor_sync(0xFFFFFFFFU, most[r], 2));
    const float whole = ceilf(most[r] * a.scale_log2);
    const float old = state.peak[r];
    const float peak = whole > old + kWideSlack ? whole : old;
    fade[r] = power_of_two(old - peak);
    rises = rises || (peak != old && old != -INFINITY);
    state.peak[r] = peak;
    state.total[r] *= fade[r];
    most[r] = peak == -INFINITY ? 0.0F : -peak;  // a row may see nothing of a piece
  }
#pragma unroll
  for (int i = 0; i < 32; ++i) {
    scores[i] = exp2_fast(fmaf(scores[i], a.scale_log2, most[i / 2 % 2]));
    state.total[i / 2 % 2] += scores[i];
  }
#pragma unroll
  for (int step = 0; step < 4; ++step) {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      packed[step][i] = pack_bf16(scores[step * 8 + i * 2], scores[step * 8 + i * 2 + 1]);
  }
  return __any_sync(0xFFFFFFFFU, rises);
}

// Sums of a warp, none of whose products is under way, go to another peak.
__device__ inline void wide_fade(WideSums& state, const float (&fade)[2]) {
#pragma unroll
  for (int i = 0; i < 128; ++i) {
    state.sums[i] *= fade[i / 2 % 2];
    settle(state.sums[i]);
  }
}

// sums += weights (of registers) times this half's columns of a block.
template <uint32_t kHalf>
__device__ void wide_values(WideSums& state, const uint32_t (&packed)[4][4], uint32_t block) {
  wgmma_fence();
#pragma unroll
  for (uint32_t step = 0; step < 4; ++step)
    multiply_wide(state.sums, packed[step],
                  wide_tile_across(block, kHalf * 4 * kTileBytes + step * 2048));
  wgmma_commit();
}

// The same with weights of shared memory.
template <uint32_t kHalf>
__device__ void wide_values(WideSums& state, uint32_t weights, uint32_t block) {
  wgmma_fence();
#pragma unroll
  for (uint32_t step = 0; step < 4; ++step)
    multiply_wide(state.sums, wide_tile(weights, step * 32),
                  wide_tile_across(block, kHalf * 4 * kTileBytes + step * 2048));
  wgmma_commit();
}

template <typename Rows>
__device__ void wide_begin_rows(const MlaDecodeArgs& a, const MlaPiece& piece, int32_t tile,
                                Rows& state) {
  const int32_t row = static_cast<int32_t>(threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    state.visible[r] = a.rows.context[piece.row] + (tile * kWidePairs + row + r * 8) / a.heads + 1;
    state.peak[r] = -INFINITY;
    state.total[r] = 0.0F;
  }
}

__device__ inline void wide_begin(const MlaDecodeArgs& a, const MlaPiece& piece, int32_t tile,
                                  WideState& state) {
  wide_begin_rows(a, piece, tile, state);
#pragma unroll
  for (int i = 0; i < 128; ++i) state.sums[i] = 0.0F;
}

// Moves to the other warpgroup's peaks; returns as wide_softmax does.
__device__ inline bool wide_take_peaks(const float (&peaks)[kWidePairs], WideState& state,
                                       float (&fade)[2]) {
  const uint32_t row = threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
  bool rises = false;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float peak = peaks[row + r * 8];
    const float old = state.peak[r];
    fade[r] = power_of_two(old - peak);
    rises = rises || (peak != old && old != -INFINITY);
    state.peak[r] = peak;
    state.total[r] *= fade[r];
  }
  return __any_sync(0xFFFFFFFFU, rises);
}

__device__ inline void wide_give(float (&to)[kWidePairs], const float (&values)[2]) {
  const uint32_t row = threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
  if (threadIdx.x % 4 == 0) {
    to[row] = values[0];
    to[row + 8] = values[1];
  }
}

__device__ inline void wide_get(const float (&from)[kWidePairs], float (&values)[2]) {
  const uint32_t row = threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
  values[0] = from[row];
  values[1] = from[row + 8];
}

__device__ inline void wide_sum_quads(float (&x)[2]) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    x[r] += __shfl_xor_sync(0xFFFFFFFFU, x[r], 1);
    x[r] += __shfl_xor_sync(0xFFFFFFFFU, x[r], 2);
  }
}

// Totals of rows, of both warpgroups' blocks. `totals` is this piece's place.
template <int kBarrier>
__device__ void wide_total(float (&totals)[2][kWidePairs], WideState& state) {
  const uint32_t group = threadIdx.x / 128;
  wide_sum_quads(state.total);
  wide_give(totals[group], state.total);
  named_barrier<kBarrier, 256>();
  float other[2];
  wide_get(totals[1 - group], other);
  state.total[0] += other[0];
  state.total[1] += other[1];
}

// Tells the compiler that all lanes have the same number: branches on it are the whole warp's, and
// the products' operands go through uniform registers.
__device__ inline int32_t same_in_warp(int32_t x) { return __shfl_sync(0xFFFFFFFFU, x, 0); }

// Tokens past a row's end may hold anything that an earlier sequence left: 0 times that must be 0.
template <int kGroupBarrier>
__device__ void wide_clear_tokens(uint8_t* block, int32_t first) {
  for (int i = first * 8 + static_cast<int>(threadIdx.x % 128); i < 64 * 8; i += 128) {
#pragma unroll
    for (int tile = 0; tile < 8; ++tile)
      *reinterpret_cast<uint4*>(block + tile * kTileBytes + i * 16) = uint4{0, 0, 0, 0};
  }
  fence_for_async();
  named_barrier<kGroupBarrier, 128>();
}

// One piece's bounds as its warpgroups see them.
struct WidePiece {
  int32_t begin = 0;
  int32_t end = 0;
  int32_t seen_by_all = 0;  // tokens that every pair sees
  int32_t seen = 0;         // that the last one sees

  __device__ bool edge(int32_t t) const { return (t + 1) * kMlaBlockTokens > seen_by_all; }
  __device__ bool unclean(int32_t t) const { return (t + 1) * kMlaBlockTokens > seen; }
};

__device__ inline WidePiece wide_piece(const MlaDecodeArgs& a, const MlaPiece& piece) {
  WidePiece p{same_in_warp(piece.begin), same_in_warp(piece.end),
              same_in_warp(a.rows.context[piece.row] + 1), 0};
  p.seen = p.seen_by_all + same_in_warp(a.rows.query[piece.row]) - 1;
  return p;
}

// The whole row's output, or a partial one.
template <uint32_t kHalf>
__device__ void wide_finish(const MlaDecodeArgs& a, const MlaPiece& piece, int32_t tile,
                            const WideSums& state, const float (&peak)[2],
                            const float (&total)[2]) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int inside = static_cast<int>(threadIdx.x % 128 / 32) * 16 + lane / 4;
  const int32_t pairs = a.rows.query[piece.row] * a.heads;
  const int column = static_cast<int>(kHalf) * 256 + lane % 4 * 2;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int32_t pair = tile * kWidePairs + inside + r * 8;
    if (pair >= pairs) continue;
    if (piece.whole) {
      const float inverse = total[r] > 0.0F ? 1.0F / total[r] : 0.0F;
      __nv_bfloat16* to =
          a.out + (int64_t{a.rows.first[piece.row]} * a.heads + pair) * kMlaLatent + column;
#pragma unroll
      for (int j = 0; j < 32; ++j)
        *reinterpret_cast<uint32_t*>(to + j * 8) =
            pack_bf16(state.sums[j * 4 + r * 2] * inverse, state.sums[j * 4 + r * 2 + 1] * inverse);
    } else {
      const int32_t slot =
          piece.cut.first_slot + static_cast<int32_t>(blockIdx.x) / a.tiles - piece.cut.origin;
      const int64_t row = (int64_t{slot} * a.tiles + tile) * kWidePairs + inside + r * 8;
      float* to = a.partial + row * kMlaLatent + column;
#pragma unroll
      for (int j = 0; j < 32; ++j)
        *reinterpret_cast<float2*>(to + j * 8) =
            float2{state.sums[j * 4 + r * 2], state.sums[j * 4 + r * 2 + 1]};
      if (kHalf == 0 && lane % 4 == 0)
        *reinterpret_cast<float2*>(a.partial_weights + 2 * row) = float2{peak[r], total[r]};
    }
  }
}

}  // namespace fathom::kernels
