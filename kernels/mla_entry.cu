// Blocks of one launch: some write cache entries, a warp a token; the others take 64 columns of one
// head's absorbed queries for a run of tokens, their weights in registers before the queries are
// there. See docs/kernels/mla_decode.md.
#include "mla_entry.h"

#include <cuda_bf16.h>
#include <cuda_fp8.h>

#include "async_copy.cuh"
#include "early_launch.cuh"
#include "mla_decode_config.h"
#include "mla_head_products.cuh"
#include "number.cuh"

namespace fathom::kernels {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / 32;
constexpr int kColumns = 64;  // of a block
constexpr int kColumnTiles = kMlaLatent / kColumns;
constexpr int kHeadQuery = kMlaNope + kMlaRope;
constexpr int kRopePairs = kMlaRope / 2;

__device__ float2 unpack(uint32_t bits) {
  __nv_bfloat162 pair;
  memcpy(&pair, &bits, sizeof pair);
  return __bfloat1622float2(pair);
}

// An interleaved pair's angle.
struct Angle {
  float cosine = 0.0F;
  float sine = 0.0F;

  __device__ void load(const AttentionBatch& b, int64_t position, int i) {
    cosine = b.cosines[position * b.rope_stride + i];
    sine = b.sines[position * b.rope_stride + i];
  }
  // The pair turned, rounded to bf16.
  __device__ uint32_t turned(uint32_t bits) const {
    const float2 x = unpack(bits);
    return pack_pair(x.x * cosine - x.y * sine, x.x * sine + x.y * cosine);
  }
};

// Where a token's entry goes, and the angle of the lane's pair of the rope's key.
struct EntryPlace {
  int64_t entry = -1;  // none: padding
  Angle angle;

  __device__ void find(const MlaEntryCall& p, int64_t t) {
    const AttentionBatch& b = p.batch;
    if (t >= b.tokens || b.token_valid[t] == 0) return;
    const int32_t position = b.positions[t];
    const int32_t slot = b.row_slot[b.token_row[t]];
    const int32_t block = b.block_table[slot * b.table_stride + position / kMlaBlockTokens];
    entry = int64_t{block} * kMlaBlockTokens + position % kMlaBlockTokens;
    angle.load(b, position, static_cast<int>(threadIdx.x % 32));
  }
};

// Eight columns a lane, `at` and behind, of a token's entry.
__device__ void store_codes(uint8_t* entry, int at, float (&x)[8]) {
  float most = 1e-4F;
#pragma unroll
  for (float& v : x) {
    v = round_number(Format::kBF16, v);
    most = fmaxf(most, fabsf(v));
  }
#pragma unroll
  for (int offset = 8; offset > 0; offset /= 2)
    most = fmaxf(most, __shfl_xor_sync(0xFFFFFFFFU, most, offset));
  const float scale = most / 448.0F;
  uint32_t codes[2] = {0, 0};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint32_t two = __nv_cvt_float2_to_fp8x2(float2{x[2 * i] / scale, x[2 * i + 1] / scale},
                                                  __NV_SATFINITE, __NV_E4M3);
    codes[i / 2] |= two << (i % 2 * 16);
  }
  *reinterpret_cast<uint2*>(entry + at) = uint2{codes[0], codes[1]};
  if (at % 128 == 0) *reinterpret_cast<float*>(entry + kMlaLatent + at / 128 * 4) = scale;
}

__device__ void write_entry(const MlaEntryCall& p, int64_t t, const float (&weights)[2][8],
                            const EntryPlace& place) {
  const AttentionBatch& b = p.batch;
  const int lane = static_cast<int>(threadIdx.x % 32);
  const auto* from = static_cast<const __nv_bfloat16*>(p.kv_a.data) + t * p.kv_a.stride;
  uint4 raw[2];
#pragma unroll
  for (int half = 0; half < 2; ++half)
    raw[half] = *reinterpret_cast<const uint4*>(from + half * 256 + lane * 8);
  const uint32_t key = *reinterpret_cast<const uint32_t*>(from + kMlaLatent + lane * 2);
  if (place.entry < 0) return;
  float x[2][8];
  float squares = 0.0F;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const uint32_t words[4] = {raw[half].x, raw[half].y, raw[half].z, raw[half].w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 two = unpack(words[i]);
      x[half][2 * i] = two.x;
      x[half][2 * i + 1] = two.y;
      squares += two.x * two.x + two.y * two.y;
    }
  }
  const float scale =
      1.0F / sqrtf(warp_sum(squares) / static_cast<float>(kMlaLatent) + p.shape.norm_epsilon);
#pragma unroll
  for (int i = 0; i < 16; ++i) x[i / 8][i % 8] *= scale * weights[i / 8][i % 8];
  const uint32_t rope = place.angle.turned(key);
  if (b.cache_format == Format::kFp8) {
    uint8_t* to = static_cast<uint8_t*>(b.cache) + place.entry * kMlaFp8EntryBytes;
    store_codes(to, lane * 8, x[0]);
    store_codes(to, 256 + lane * 8, x[1]);
    *reinterpret_cast<uint32_t*>(to + kMlaLatent + 16 + lane * 4) = rope;
    return;
  }
  auto* to = static_cast<__nv_bfloat16*>(b.cache) + place.entry * kMlaEntry;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float(&v)[8] = x[half];
    *reinterpret_cast<uint4*>(to + half * 256 + lane * 8) = uint4{
        pack_pair(v[0], v[1]), pack_pair(v[2], v[3]), pack_pair(v[4], v[5]), pack_pair(v[6], v[7])};
  }
  *reinterpret_cast<uint32_t*>(to + kMlaLatent + lane * 2) = rope;
}

__device__ void write_entries(const MlaEntryCall& p) {
  const int64_t t = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  const int lane = static_cast<int>(threadIdx.x % 32);
  float weights[2][8];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint4 four = load_weights(p.kv_norm + i / 2 * 256 + lane * 8 + i % 2 * 4);
    const uint32_t words[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
    for (int k = 0; k < 4; ++k) weights[i / 2][i % 2 * 4 + k] = __uint_as_float(words[k]);
  }
  EntryPlace place;
  place.find(p, t);  // rows and tables are older than the step's first kernel
  wait_for_earlier_kernels();
  let_next_kernel_start();
  if (t < p.batch.tokens) write_entry(p, t, weights, place);
}

// The rope's part of the queries: of a run's tokens, the column tiles take turns, 32 threads a
// token. Asked for before the products and stored after them.
struct TurnedQuery {
  uint32_t bits = 0;
  Angle angle;

  __device__ void find_angle(const MlaEntryCall& p, int64_t t, int64_t end) {
    if (t >= end) return;
    const int64_t position = p.batch.token_valid[t] != 0 ? p.batch.positions[t] : 0;
    angle.load(p.batch, position, static_cast<int>(threadIdx.x % kRopePairs));
  }
  __device__ void load(const MlaEntryCall& p, int head, int64_t t, int64_t end) {
    if (t >= end) return;
    const int i = static_cast<int>(threadIdx.x % kRopePairs);
    bits =
        *reinterpret_cast<const uint32_t*>(static_cast<const __nv_bfloat16*>(p.q.data) +
                                           t * p.q.stride + head * kHeadQuery + kMlaNope + 2 * i);
  }
  __device__ void store(const MlaEntryCall& p, int head, int64_t t, int64_t end) const {
    if (t >= end) return;
    const int i = static_cast<int>(threadIdx.x % kRopePairs);
    *reinterpret_cast<uint32_t*>(static_cast<__nv_bfloat16*>(p.queries) +
                                 (t * p.shape.heads + head) * kMlaEntry + kMlaLatent + 2 * i) =
        angle.turned(bits);
  }
};

__device__ void absorb(const MlaEntryCall& p, int32_t number, int32_t run) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int tile = number % kColumnTiles;
  const int head = number / kColumnTiles % p.shape.heads;
  const int64_t first = int64_t{number / kColumnTiles / p.shape.heads} * run;
  const int64_t end = min(first + run, p.query_tokens);
  const int column = tile * kColumns + static_cast<int>(threadIdx.x / 32) * 16;
  HeadWeights weights;
  weights.load(
      static_cast<const uint16_t*>(p.up_key) + (int64_t{head} * kMlaLatent + column) * kMlaNope,
      kMlaNope);
  const int64_t turn = first + tile + int64_t{threadIdx.x / kRopePairs} * kColumnTiles;
  TurnedQuery query;
  query.find_angle(p, turn, end);
  wait_for_earlier_kernels();
  let_next_kernel_start();
  query.load(p, head, turn, end);
  const auto* x = static_cast<const uint16_t*>(p.q.data) + head * kHeadQuery + lane % 4 * 8;
  for (int64_t t = first + lane / 4; t - lane / 4 < end; t += 16) {
    uint4 rows[2][4];
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int64_t token = t + i / 4 * 8;
      rows[i / 4][i % 4] =
          token < end ? *reinterpret_cast<const uint4*>(x + token * p.q.stride + i % 4 * 32)
                      : uint4{0, 0, 0, 0};
    }
    HeadSums sums;
    sums.clear();
#pragma unroll
    for (int k = 0; k < 4; ++k) sums.add(rows[0][k], rows[1][k], weights, k);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t token = t + half * 8;
      if (token >= end) continue;
      const float4 v = sums.columns(half);
      *reinterpret_cast<uint2*>(static_cast<__nv_bfloat16*>(p.queries) +
                                (token * p.shape.heads + head) * kMlaEntry + column +
                                lane % 4 * 4) = uint2{pack_pair(v.x, v.y), pack_pair(v.z, v.w)};
    }
  }
  query.store(p, head, turn, end);
  for (int64_t t = turn + kWarps * kColumnTiles; t < end; t += kWarps * kColumnTiles) {
    query.load(p, head, t, end);
    query.find_angle(p, t, end);
    query.store(p, head, t, end);
  }
}

__global__ void __launch_bounds__(kThreads)
    entry_kernel(const __grid_constant__ MlaEntryCall p, int32_t writers, int32_t run) {
  const auto number = static_cast<int32_t>(blockIdx.x);
  if (number < writers) {
    write_entries(p);
  } else {
    absorb(p, number - writers, run);
  }
}

bool on_16_bytes(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

bool rows_fit(const Rows& rows) {
  return rows.format == Format::kBF16 && rows.stride % 8 == 0 && on_16_bytes(rows.data);
}

}  // namespace

bool mla_entry_fits(const MlaEntryCall& call) {
  const MlaShape& s = call.shape;
  return s.nope_dims == kMlaNope && s.rope_dims == kMlaRope && s.kv_lora == kMlaLatent &&
         s.block_tokens == kMlaBlockTokens && call.batch.cache_format != Format::kF32 &&
         rows_fit(call.kv_a) && rows_fit(call.q) && on_16_bytes(call.kv_norm) &&
         on_16_bytes(call.up_key);
}

cudaError_t mla_entry(cudaStream_t stream, const MlaEntryCall& call) {
  if (call.batch.tokens == 0) return cudaSuccess;
  const int32_t run = call.query_tokens <= 16 ? 16 : call.query_tokens <= 128 ? 32 : 64;
  const auto writers = static_cast<int32_t>((call.batch.tokens + kWarps - 1) / kWarps);
  const auto runs = static_cast<int32_t>((call.query_tokens + run - 1) / run);
  const int32_t blocks = writers + runs * kColumnTiles * call.shape.heads;
  return launch_early(stream, entry_kernel, dim3(static_cast<unsigned>(blocks)), dim3(kThreads),
                      call, writers, run);
}

}  // namespace fathom::kernels
