// What the blocks of gqa_few that share a row's key head are to each other: whose chunks are whose,
// and how results pass between them. They wait for each other: earlier kernels end without them,
// and later ones get places when all of them have one, so each comes to run.
#pragma once

#include "gqa_decode_fold.cuh"
#include "gqa_few.h"

namespace fathom::kernels {

struct GqaFewArgs {
  GqaDecodeArgs decode;
  AttentionBatch batch;
  GqaHeads heads;
  float norm_epsilon = 0.0F;
  const __nv_bfloat16* qkv = nullptr;
  int64_t qkv_stride = 0;
  int32_t blocks = 0;  // of a row's key head
  uint32_t* exchange = nullptr;
};

// A block's chunks of its row: of one segment each `step`-th, else [begin, end) in a run.
struct GqaFewShare {
  int32_t row;
  int32_t head;      // key head
  int32_t row_head;  // row * key heads + head
  int32_t rank;      // of the block among those of its row's key head
  int32_t blocks;
  int32_t slot;
  int32_t seen;  // tokens
  int32_t chunks;
  int32_t begin;
  int32_t end;
  int32_t step;

  __device__ int32_t begin_of(int32_t rank_there) const { return chunks * rank_there / blocks; }
  __device__ int32_t rank_of(int32_t chunk) const { return ((chunk + 1) * blocks - 1) / chunks; }
  __device__ int32_t block_of(int32_t rank_there) const { return row_head * blocks + rank_there; }
  __device__ int32_t segments() const {
    return (chunks + kGqaSegmentChunks - 1) / kGqaSegmentChunks;
  }
  __device__ int32_t segment_end(int32_t segment) const {
    return min((segment + 1) * kGqaSegmentChunks, chunks);
  }
  __device__ bool has_new_token() const {
    return begin < end && (chunks - 1 - begin) % step == 0 && end == chunks;
  }
};

__device__ inline GqaFewShare few_share(const GqaFewArgs& a) {
  GqaFewShare share;
  const int32_t heads = a.decode.rows.count * a.decode.kv_heads;
  const auto block = static_cast<int32_t>(blockIdx.x);
  share.rank = block / heads;  // those that a short row leaves without work come last
  share.row_head = block % heads;
  share.blocks = a.blocks;
  share.row = share.row_head / a.decode.kv_heads;
  share.head = share.row_head % a.decode.kv_heads;
  const int32_t query = a.decode.rows.query[share.row];
  const int32_t context = a.decode.rows.context[share.row];
  share.slot = a.decode.rows.slot[share.row];
  share.seen = query == 0 ? 0 : context + 1;
  share.chunks = (share.seen + kGqaChunkTokens - 1) / kGqaChunkTokens;
  const bool one = share.segments() == 1;
  share.begin = one ? share.rank : share.begin_of(share.rank);
  share.end = one ? share.chunks : share.begin_of(share.rank + 1);
  share.step = one ? share.blocks : 1;
  return share;
}

// Words of the exchange are 0 until they are written, and again when they have been read.
__device__ inline uint32_t word_of(float v) {
  const uint32_t word = ~__float_as_uint(v);
  return word == 0 ? 0x80000000U : word;  // one NaN for another
}

template <int kEach>
__device__ void put_words(uint32_t* to, const float (&v)[kEach]) {
  if constexpr (kEach == 4) {
    asm volatile("st.relaxed.gpu.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(to),
                 "r"(word_of(v[0])), "r"(word_of(v[1])), "r"(word_of(v[2])), "r"(word_of(v[3]))
                 : "memory");
  } else {
    asm volatile("st.relaxed.gpu.global.v2.b32 [%0], {%1, %2};" ::"l"(to), "r"(word_of(v[0])),
                 "r"(word_of(v[1]))
                 : "memory");
  }
}

template <int kEach>
struct FewWords {
  uint32_t x[kEach];
  __device__ bool whole() const {
    bool all = true;
#pragma unroll
    for (int i = 0; i < kEach; ++i) all = all && x[i] != 0;
    return all;
  }
};

template <int kEach>
__device__ FewWords<kEach> get_words(const uint32_t* from) {
  FewWords<kEach> w;
  if constexpr (kEach == 4) {
    asm volatile("ld.relaxed.gpu.global.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(w.x[0]), "=r"(w.x[1]), "=r"(w.x[2]), "=r"(w.x[3])
                 : "l"(from)
                 : "memory");
  } else {
    asm volatile("ld.relaxed.gpu.global.v2.b32 {%0, %1}, [%2];"
                 : "=r"(w.x[0]), "=r"(w.x[1])
                 : "l"(from)
                 : "memory");
  }
  return w;
}

template <int kEach>
__device__ void clear_words(uint32_t* to) {
#pragma unroll
  for (int i = 0; i < kEach; ++i) to[i] = 0;
}

// Where chunk `c` of a pair lies in the exchange: its sums, then its statistics.
template <int kDims>
__device__ uint32_t* exchanged(const GqaFewArgs& a, const GqaFewShare& share, int32_t c,
                               int32_t pair) {
  const int32_t at = (share.row_head * kGqaSegmentChunks + c) * a.decode.group + pair;
  return a.exchange + kGqaFewHeadsMax + int64_t{at} * (kDims + 4);
}

// Blocks of a row's key head wait for each other: `times` is 1, then 2. Those that waited twice, a
// block for each pair, arrive once more: the last makes the counter 0 again. All threads that
// compute.
__device__ inline void arrive_few(const GqaFewArgs& a, const GqaFewShare& share) {
  compute_barrier();
  if (threadIdx.x != 0) return;
  __threadfence();
  atomicInc(a.exchange + share.row_head,
            static_cast<uint32_t>(2 * share.blocks + a.decode.group - 1));
}
__device__ inline void await_few(const GqaFewArgs& a, const GqaFewShare& share, int32_t times) {
  if (threadIdx.x == 0) {
    uint32_t count = 0;
    while (count < static_cast<uint32_t>(times * share.blocks))
      asm volatile("ld.acquire.gpu.global.u32 %0, [%1];"
                   : "=r"(count)
                   : "l"(a.exchange + share.row_head)
                   : "memory");
    __threadfence();
  }
  compute_barrier();
}

}  // namespace fathom::kernels
