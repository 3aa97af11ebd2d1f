// Routing with its schedule, and the two products of the chosen experts.
#include "moe_decode.h"

#include "moe_stream.cuh"
#include "number.cuh"
#include "route_token.cuh"

namespace fathom::kernels {
namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;
constexpr int kColumnWarps = 8;                // of 16 rows each: 128 output columns a block
constexpr int kSplit = kWarps / kColumnWarps;  // warps that share a row's blocks
constexpr int kColumns = 128;
constexpr int kTokens = kMoeTileTokens;
constexpr int kRouteThreads = 1024;

// ---- Routing: a warp a token.

struct RouteShared {
  float choices[kRouteThreads / 32][kMoeExpertsMax];
  int32_t expert[kMoeDecodePairsMax];  // of each pair; -1: not here
  int32_t count[kMoeExpertsMax];
};

// Pairs by expert, and tiles of at most 8 of them, in a fixed order.
__device__ void schedule_pairs(RouteShared& sh, int32_t pairs, int32_t experts,
                               const MoeSchedule& out) {
  const auto thread = static_cast<int32_t>(threadIdx.x);
  int32_t rank = 0;
  int32_t before = 0;
  const int32_t mine = thread < pairs ? sh.expert[thread] : -1;
  for (int32_t p = 0; mine >= 0 && p < thread; ++p) rank += sh.expert[p] == mine ? 1 : 0;
  for (int32_t e = 0; e < mine; ++e) before += sh.count[e];
  if (mine >= 0) out.order[before + rank] = thread;
  if (thread >= experts) return;
  int32_t first = 0;
  int32_t tile = 0;
  for (int32_t e = 0; e < thread; ++e) {
    first += sh.count[e];
    tile += (sh.count[e] + kTokens - 1) / kTokens;
  }
  const int32_t count = sh.count[thread];
  for (int32_t done = 0; done < count; done += kTokens)
    out.tiles[tile++] = {thread, first + done, min(kTokens, count - done)};
  if (thread == experts - 1) *out.tile_count = tile;
}

__global__ void __launch_bounds__(kRouteThreads)
    route_kernel(RouterShape s, int32_t tokens, const float* scores, const float* bias,
                 const uint8_t* token_valid, int32_t first_expert, int32_t expert_count,
                 int32_t* ids, float* weights, MoeSchedule out) {
  extern __shared__ __align__(16) uint8_t bytes[];
  RouteShared& sh = *reinterpret_cast<RouteShared*>(bytes);
  const int32_t k = s.experts_per_token;
  const auto warp = static_cast<int32_t>(threadIdx.x / 32);
  for (int32_t e = static_cast<int32_t>(threadIdx.x); e < expert_count; e += kRouteThreads)
    sh.count[e] = 0;
  for (int32_t t = warp; t < tokens; t += kRouteThreads / 32)
    route_token(s, scores + int64_t{t} * s.experts, bias, sh.choices[warp], ids + t * k,
                weights + t * k);
  __syncthreads();
  const int32_t pairs = tokens * k;
  for (int32_t p = static_cast<int32_t>(threadIdx.x); p < pairs; p += kRouteThreads) {
    const int32_t e = ids[p] - first_expert;
    const bool here = token_valid[p / k] != 0 && e >= 0 && e < expert_count;
    sh.expert[p] = here ? e : -1;
    if (here) atomicAdd(&sh.count[e], 1);
  }
  __syncthreads();
  schedule_pairs(sh, pairs, expert_count, out);
}

// ---- Products.

__device__ int64_t tile_row_bytes(int64_t in_bytes) { return (in_bytes + 127) / 128 * 128 + 64; }

// The tile's rows of x in shared memory; rows past its tokens are zero.
template <Format kFormat>
__device__ TokenTile load_tokens(Rows x, int64_t in_bytes, const int32_t* order,
                                 const MoeTile& tile, int32_t divisor, uint8_t* shared) {
  const int64_t row_bytes = tile_row_bytes(in_bytes);
  const auto vectors = static_cast<int32_t>(in_bytes / 16);
  const int64_t stride_bytes = x.stride * (kFormat == Format::kFp8 ? 1 : 2);
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i < kTokens * vectors; i += kThreads) {
    const int32_t n = i / vectors;
    const int32_t v = i % vectors;
    uint4 value = make_uint4(0, 0, 0, 0);
    if (n < tile.count) {
      const int64_t row = order[tile.first + n] / divisor;
      value = reinterpret_cast<const uint4*>(static_cast<const uint8_t*>(x.data) +
                                             row * stride_bytes)[v];
    }
    *reinterpret_cast<uint4*>(shared + n * row_bytes + 16 * v) = value;
  }
  auto* scales = reinterpret_cast<float*>(shared + kTokens * row_bytes);
  const auto blocks = static_cast<int32_t>(in_bytes / kMoeBlockBytes);
  if constexpr (kFormat == Format::kFp8) {
    for (int32_t i = static_cast<int32_t>(threadIdx.x); i < kTokens * blocks; i += kThreads) {
      const int32_t n = i % kTokens;
      const int32_t b = i / kTokens;
      scales[i] =
          n < tile.count ? x.scales[order[tile.first + n] / divisor * x.scale_stride + b] : 0.0F;
    }
  }
  __syncthreads();
  return {shared, row_bytes, scales};
}

// Adds up the warps that share rows; the first of them get the sums.
template <int kAccs>
__device__ void join_split(float (&acc)[kAccs], float* shared) {
  static_assert(kSplit == 2);
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int warp = static_cast<int>(threadIdx.x / 32);
  float* mine = shared + (warp % kColumnWarps) * 32 * kAccs + lane;
  __syncthreads();
  if (warp >= kColumnWarps)
    for (int i = 0; i < kAccs; ++i) mine[32 * i] = acc[i];
  __syncthreads();
  if (warp < kColumnWarps)
    for (int i = 0; i < kAccs; ++i) acc[i] += mine[32 * i];
  __syncthreads();
}

// Blocks of a warp: one half of the row's or the other.
struct BlockRange {
  int64_t begin;
  int64_t end;
};
__device__ BlockRange blocks_of_warp(int64_t blocks) {
  const int64_t part = threadIdx.x / 32 / kColumnWarps;
  return {part * blocks / kSplit, (part + 1) * blocks / kSplit};
}

// One token's 128 columns: bf16, or e4m3 with one scale. By one warp.
__device__ void store_inner(const float* values, int64_t row, int64_t column, const Epilogue& out) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  float v[4];
  float largest = 1e-4F;
  for (int j = 0; j < 4; ++j) {
    v[j] = round_number(Format::kBF16, values[lane + 32 * j]);
    largest = fmaxf(largest, fabsf(v[j]));
  }
  if (out.format != Format::kFp8) {
    for (int j = 0; j < 4; ++j)
      store_number(out.data, out.format, row * out.stride + column + lane + 32 * j, v[j]);
    return;
  }
  largest = warp_max(largest);
  float scale = largest / 448.0F;
  if (out.ue8m0) {
    const uint32_t bits = __float_as_uint(scale);
    const bool up = (bits & 0x7FFFFFU) != 0;
    scale = __uint_as_float(up ? (bits & 0x7F800000U) + 0x800000U : bits);
  }
  for (int j = 0; j < 4; ++j) {
    static_cast<uint8_t*>(out.data)[row * out.stride + column + lane + 32 * j] =
        __nv_cvt_float_to_fp8(v[j] / scale, __NV_SATFINITE, __NV_E4M3);
  }
  if (lane == 0) out.scales[row * out.scale_stride + column / 128] = scale;
}

__device__ float gated(float gate, float up) {
  gate = round_number(Format::kBF16, gate);
  up = round_number(Format::kBF16, up);
  return gate / (1.0F + expf(-gate)) * up;
}

template <Format kFormat>
__global__ void __launch_bounds__(kThreads, 1)
    gate_up_kernel(const Matrix* experts, int64_t in_bytes, int64_t width, Rows x, int32_t k,
                   MoeSchedule schedule, Epilogue inner) {
  extern __shared__ __align__(16) uint8_t shared[];
  if (static_cast<int32_t>(blockIdx.y) >= *schedule.tile_count) return;
  const MoeTile tile = schedule.tiles[blockIdx.y];
  const Matrix w = experts[tile.expert];
  const TokenTile tokens = load_tokens<kFormat>(x, in_bytes, schedule.order, tile, k, shared);
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int warp = static_cast<int>(threadIdx.x / 32);
  const int64_t column = int64_t{blockIdx.x} * kColumns + warp % kColumnWarps * 16;
  const RowPointers gate_rows(w, column, in_bytes);
  const RowPointers up_rows(w, width + column, in_bytes);
  float gate[4] = {};
  float up[4] = {};
  const BlockRange range = blocks_of_warp(in_bytes / kMoeBlockBytes);
#pragma unroll 2
  for (int64_t b = range.begin; b < range.end; ++b) {
    const WeightBlock g = gate_rows.load(b);
    const WeightBlock u = up_rows.load(b);
    multiply_block<kFormat>(g, gate_rows, tokens, b, gate);
    multiply_block<kFormat>(u, up_rows, tokens, b, up);
  }
  auto* sums = reinterpret_cast<float*>(shared);
  float all[8] = {gate[0], gate[1], gate[2], gate[3], up[0], up[1], up[2], up[3]};
  join_split(all, sums);
  if (warp < kColumnWarps) {
    for (int i = 0; i < 4; ++i) {
      const int token = 2 * (lane % 4) + i % 2;
      const int at = warp * 16 + lane / 4 + 8 * (i / 2);
      sums[token * kColumns + at] = gated(all[i], all[4 + i]);
    }
  }
  __syncthreads();
  if (warp < tile.count) {
    store_inner(sums + warp * kColumns, schedule.order[tile.first + warp],
                int64_t{blockIdx.x} * kColumns, inner);
  }
}

template <Format kFormat>
__global__ void __launch_bounds__(kThreads, 1)
    down_kernel(const Matrix* experts, int64_t in_bytes, int64_t out_columns, Rows inner,
                MoeSchedule schedule, float* out) {
  extern __shared__ __align__(16) uint8_t shared[];
  if (static_cast<int32_t>(blockIdx.y) >= *schedule.tile_count) return;
  const MoeTile tile = schedule.tiles[blockIdx.y];
  const Matrix w = experts[tile.expert];
  const TokenTile tokens = load_tokens<kFormat>(inner, in_bytes, schedule.order, tile, 1, shared);
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int warp = static_cast<int>(threadIdx.x / 32);
  const int64_t column = int64_t{blockIdx.x} * kColumns + warp % kColumnWarps * 16;
  const RowPointers rows(w, column, in_bytes);
  float acc[4] = {};
  const BlockRange range = blocks_of_warp(in_bytes / kMoeBlockBytes);
#pragma unroll 4
  for (int64_t b = range.begin; b < range.end; ++b)
    multiply_block<kFormat>(rows.load(b), rows, tokens, b, acc);
  join_split(acc, reinterpret_cast<float*>(shared));
  if (warp >= kColumnWarps) return;
  for (int i = 0; i < 4; ++i) {
    const int token = 2 * (lane % 4) + i % 2;
    if (token >= tile.count) continue;
    const int64_t pair = schedule.order[tile.first + token];
    out[pair * out_columns + column + lane / 4 + 8 * (i / 2)] = round_number(Format::kBF16, acc[i]);
  }
}

// Tokens of a tile with their scales, and later the sums, in shared memory.
size_t shared_bytes(int64_t in_bytes) {
  const int64_t row = (in_bytes + 127) / 128 * 128 + 64;
  const int64_t tokens = kTokens * row + kTokens * (in_bytes / kMoeBlockBytes) * 4;
  const int64_t sums = int64_t{kColumnWarps} * 32 * 8 * 4;
  return static_cast<size_t>(tokens > sums ? tokens : sums);
}

int64_t bytes_of(Format format, int64_t columns) {
  return format == Format::kFp8 ? columns : 2 * columns;
}

}  // namespace

cudaError_t load_moe_decode() {
  constexpr int kSharedMax = 227 * 1024;
  cudaError_t error = cudaFuncSetAttribute(
      route_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(RouteShared));
  for (const void* kernel : {reinterpret_cast<const void*>(gate_up_kernel<Format::kFp8>),
                             reinterpret_cast<const void*>(gate_up_kernel<Format::kBF16>),
                             reinterpret_cast<const void*>(down_kernel<Format::kFp8>),
                             reinterpret_cast<const void*>(down_kernel<Format::kBF16>)}) {
    if (error != cudaSuccess) return error;
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedMax);
  }
  return error;
}

void route_and_schedule(cudaStream_t stream, const RouterShape& shape, int64_t tokens,
                        const float* scores, const float* bias, const uint8_t* token_valid,
                        int32_t first_expert, int32_t expert_count, int32_t* ids, float* weights,
                        const MoeSchedule& schedule) {
  if (tokens == 0) return;
  route_kernel<<<1, kRouteThreads, sizeof(RouteShared), stream>>>(
      shape, static_cast<int32_t>(tokens), scores, bias, token_valid, first_expert, expert_count,
      ids, weights, schedule);
}

void expert_gate_up(cudaStream_t stream, const Matrix* experts, Format format, int64_t in,
                    int64_t width, Rows x, int32_t k, const MoeSchedule& schedule,
                    const Epilogue& inner) {
  const int64_t in_bytes = bytes_of(format, in);
  const dim3 grid(static_cast<unsigned>(width / kColumns),
                  static_cast<unsigned>(schedule.tiles_max));
  auto* kernel =
      format == Format::kFp8 ? gate_up_kernel<Format::kFp8> : gate_up_kernel<Format::kBF16>;
  kernel<<<grid, kThreads, shared_bytes(in_bytes), stream>>>(experts, in_bytes, width, x, k,
                                                             schedule, inner);
}

void expert_down(cudaStream_t stream, const Matrix* experts, Format format, int64_t in,
                 int64_t out_columns, Rows inner, const MoeSchedule& schedule, float* out) {
  const int64_t in_bytes = bytes_of(format, in);
  const dim3 grid(static_cast<unsigned>(out_columns / kColumns),
                  static_cast<unsigned>(schedule.tiles_max));
  auto* kernel = format == Format::kFp8 ? down_kernel<Format::kFp8> : down_kernel<Format::kBF16>;
  kernel<<<grid, kThreads, shared_bytes(in_bytes), stream>>>(experts, in_bytes, out_columns, inner,
                                                             schedule, out);
}

}  // namespace fathom::kernels
