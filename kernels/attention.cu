// MLA on the paged latent cache: write, absorbed queries, running softmax, value up-projection.
#include "attention.h"

#include "async_copy.cuh"
#include "early_launch.cuh"
#include "number.cuh"

namespace fathom::kernels {
namespace {

constexpr int kThreads = 128;
constexpr float kLog2E = 1.4426950408889634F;
constexpr int kValueParts = 8;  // kv_lora / kThreads at most: 1024 latent dims

// The number of a token's entry.
__device__ int64_t entry_at(const MlaShape& s, const AttentionBatch& b, int32_t slot,
                            int32_t position) {
  const int32_t block = b.block_table[slot * b.table_stride + position / s.block_tokens];
  return int64_t{block} * s.block_tokens + position % s.block_tokens;
}

// FP8 entries: codes, float32 scales of groups of 128, the rope's key as bf16 (Fp8LatentLayout).
constexpr int kGroup = 128;
__device__ int scales_at(const MlaShape& s) { return (s.kv_lora + 3) / 4 * 4; }
__device__ uint8_t* fp8_entry(const MlaShape& s, const AttentionBatch& b, int64_t entry) {
  const int bytes = scales_at(s) + (s.kv_lora + kGroup - 1) / kGroup * 4 + s.rope_dims * 2;
  return static_cast<uint8_t*>(b.cache) + entry * bytes;
}

// Number `k` of an entry.
__device__ float load_cached(const MlaShape& s, const AttentionBatch& b, int64_t entry, int k) {
  if (b.cache_format != Format::kFp8)
    return load_number(b.cache, b.cache_format, entry * (s.kv_lora + s.rope_dims) + k);
  const uint8_t* from = fp8_entry(s, b, entry);
  const auto* scales = reinterpret_cast<const float*>(from + scales_at(s));
  if (k < s.kv_lora) return load_number(from, Format::kFp8, k) * scales[k / kGroup];
  const int groups = (s.kv_lora + kGroup - 1) / kGroup;
  return load_number(scales + groups, Format::kBF16, k - s.kv_lora);
}

// The interleaved pair (2i, 2i + 1) turned by the position's angle.
__device__ void rope_pair(const AttentionBatch& b, int32_t position, int i, float& even,
                          float& odd) {
  const float c = b.cosines[position * b.rope_stride + i];
  const float s = b.sines[position * b.rope_stride + i];
  const float x = even;
  even = x * c - odd * s;
  odd = x * s + odd * c;
}

__device__ void rope_queries(const MlaShape& s, const AttentionBatch& b, const QueryRope& r,
                             int64_t t) {
  const int half = s.rope_dims / 2;
  for (int j = static_cast<int>(threadIdx.x); j < s.heads * half; j += kThreads) {
    const int h = j / half;
    const int i = j % half;
    const int64_t at =
        t * r.q.stride + int64_t{h} * (s.nope_dims + s.rope_dims) + s.nope_dims + 2 * i;
    const int64_t to = (t * s.heads + h) * (s.kv_lora + s.rope_dims) + s.kv_lora + 2 * i;
    float even = load_number(r.q.data, r.q.format, at);
    float odd = load_number(r.q.data, r.q.format, at + 1);
    rope_pair(b, b.positions[t], i, even, odd);
    store_number(r.out, Format::kBF16, to, even);
    store_number(r.out, Format::kBF16, to + 1, odd);
  }
}

__global__ void rope_kernel(MlaShape s, AttentionBatch b, QueryRope rope) {
  if (b.token_valid[blockIdx.x] != 0) rope_queries(s, b, rope, blockIdx.x);
}

// A group of an entry's codes, a thread each, and their scale.
static_assert(kGroup == kThreads);
__device__ void store_group(const MlaShape& s, uint8_t* entry, int first, float x, float* shared) {
  const float rounded = round_number(Format::kBF16, x);
  const float code_scale = block_max(fmaxf(fabsf(rounded), 1e-4F), shared) / 448.0F;
  const int k = first + static_cast<int>(threadIdx.x);
  if (k < s.kv_lora)
    entry[k] = __nv_cvt_float_to_fp8(rounded / code_scale, __NV_SATFINITE, __NV_E4M3);
  if (threadIdx.x == 0) reinterpret_cast<float*>(entry + scales_at(s))[first / kGroup] = code_scale;
}

__global__ void write_kernel(MlaShape s, AttentionBatch b, Rows kv_a, const float* kv_norm,
                             QueryRope rope) {
  __shared__ float shared[32];
  const int64_t t = blockIdx.x;
  let_next_kernel_start();
  wait_for_earlier_kernels();
  if (b.token_valid[t] == 0) return;
  const int32_t position = b.positions[t];
  const int64_t entry = entry_at(s, b, b.row_slot[b.token_row[t]], position);
  float squares = 0.0F;
  for (int k = threadIdx.x; k < s.kv_lora; k += blockDim.x) {
    const float x = load_number(kv_a.data, kv_a.format, t * kv_a.stride + k);
    squares += x * x;
  }
  const float scale =
      1.0F / sqrtf(block_sum(squares, shared) / static_cast<float>(s.kv_lora) + s.norm_epsilon);
  const bool fp8 = b.cache_format == Format::kFp8;
  for (int first = 0; first < s.kv_lora; first += kThreads) {
    const int k = first + static_cast<int>(threadIdx.x);
    const float x = k < s.kv_lora ? load_number(kv_a.data, kv_a.format, t * kv_a.stride + k) *
                                        scale * kv_norm[k]
                                  : 0.0F;
    if (fp8) {
      store_group(s, fp8_entry(s, b, entry), first, x, shared);
    } else if (k < s.kv_lora) {
      store_number(b.cache, b.cache_format, entry * (s.kv_lora + s.rope_dims) + k, x);
    }
  }
  void* keys =
      fp8 ? fp8_entry(s, b, entry) + scales_at(s) + (s.kv_lora + kGroup - 1) / kGroup * 4 : b.cache;
  const Format key_format = fp8 ? Format::kBF16 : b.cache_format;
  const int64_t key = fp8 ? 0 : entry * (s.kv_lora + s.rope_dims) + s.kv_lora;
  for (int i = threadIdx.x; i < s.rope_dims / 2; i += blockDim.x) {
    const int64_t at = t * kv_a.stride + s.kv_lora + 2 * i;
    float even = load_number(kv_a.data, kv_a.format, at);
    float odd = load_number(kv_a.data, kv_a.format, at + 1);
    rope_pair(b, position, i, even, odd);
    store_number(keys, key_format, key + 2 * i, even);
    store_number(keys, key_format, key + 2 * i + 1, odd);
  }
  if (t < rope.tokens) rope_queries(s, b, rope, t);
}

__global__ void absorb_kernel(MlaShape s, AttentionBatch b, Rows q, HeadMatrices up_key,
                              Format format, void* out) {
  const int64_t t = blockIdx.x;
  const int h = blockIdx.y;
  const int64_t from = t * q.stride + int64_t{h} * (s.nope_dims + s.rope_dims);
  const int64_t to = (t * s.heads + h) * (s.kv_lora + s.rope_dims);
  const int64_t up = int64_t{h} * s.nope_dims * s.kv_lora;
  for (int c = threadIdx.x; c < s.kv_lora; c += blockDim.x) {
    float sum = 0.0F;
    for (int d = 0; d < s.nope_dims; ++d) {
      sum += load_number(q.data, q.format, from + d) *
             load_number(up_key.data, up_key.format,
                         up + d * up_key.row_stride + c * up_key.column_stride);
    }
    store_number(out, format, to + c, sum);
  }
  for (int i = threadIdx.x; i < s.rope_dims / 2; i += blockDim.x) {
    float even = load_number(q.data, q.format, from + s.nope_dims + 2 * i);
    float odd = load_number(q.data, q.format, from + s.nope_dims + 2 * i + 1);
    rope_pair(b, b.positions[t], i, even, odd);
    store_number(out, format, to + s.kv_lora + 2 * i, even);
    store_number(out, format, to + s.kv_lora + 2 * i + 1, odd);
  }
}

__device__ bool in_range(RowRange rows, int32_t row) { return row >= rows.first && row < rows.end; }

// One block a (token, head): scores of kThreads positions at a time (a warp a position in turn),
// running softmax, then each thread adds to its own latent dims.
__global__ void attend_kernel(MlaShape s, AttentionBatch b, RowRange rows, const void* queries,
                              Format format, void* out) {
  extern __shared__ float query[];  // [kv_lora + rope]
  __shared__ float shared[32];
  __shared__ float weights[kThreads];
  __shared__ int64_t entries[kThreads];
  const int64_t t = blockIdx.x;
  const int h = blockIdx.y;
  const int entry = s.kv_lora + s.rope_dims;
  const int64_t to = (t * s.heads + h) * s.kv_lora;
  if (b.token_valid[t] == 0 || !in_range(rows, b.token_row[t])) return;
  for (int k = threadIdx.x; k < entry; k += blockDim.x)
    query[k] = load_number(queries, format, (t * s.heads + h) * entry + k);
  const int32_t slot = b.row_slot[b.token_row[t]];
  const int32_t visible = b.positions[t] + 1;
  // Weights that are rounded are relative to whole powers of two: a bit of theirs must not depend
  // on where the running peak stood.
  const bool rounds = format == Format::kBF16;
  const float scale = rounds ? s.softmax_scale * kLog2E : s.softmax_scale;
  float sums[kValueParts] = {};
  float peak = -INFINITY;
  float total = 0.0F;
  const int warp = static_cast<int>(threadIdx.x / 32);
  const int lane = static_cast<int>(threadIdx.x % 32);
  for (int32_t first = 0; first < visible; first += kThreads) {
    const int count = min(kThreads, visible - first);
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < count)
      entries[threadIdx.x] = entry_at(s, b, slot, first + threadIdx.x);
    __syncthreads();
    for (int j = warp; j < count; j += kThreads / 32) {
      float dot = 0.0F;
      for (int k = lane; k < entry; k += 32) dot += query[k] * load_cached(s, b, entries[j], k);
      dot = warp_sum(dot);
      if (lane == 0) weights[j] = dot * scale;
    }
    __syncthreads();
    const float mine = static_cast<int>(threadIdx.x) < count ? weights[threadIdx.x] : -INFINITY;
    const float most = block_max(mine, shared);
    const float next_peak = fmaxf(peak, rounds ? ceilf(most) : most);
    const float weight = rounds ? exp2f(mine - next_peak) : expf(mine - next_peak);
    const float fade = rounds ? exp2f(peak - next_peak) : expf(peak - next_peak);
    total = total * fade + block_sum(weight, shared);
    weights[threadIdx.x] = round_number(format, weight);
    peak = next_peak;
    __syncthreads();
    for (int part = 0; part < kValueParts; ++part) {
      const int c = static_cast<int>(threadIdx.x) + part * kThreads;
      if (c >= s.kv_lora) break;
      float sum = sums[part] * fade;
      for (int j = 0; j < count; ++j) sum += weights[j] * load_cached(s, b, entries[j], c);
      sums[part] = sum;
    }
  }
  for (int part = 0; part < kValueParts; ++part) {
    const int c = static_cast<int>(threadIdx.x) + part * kThreads;
    if (c < s.kv_lora) store_number(out, format, to + c, sums[part] / total);
  }
}

__global__ void values_kernel(MlaShape s, AttentionBatch b, RowRange rows, const void* latents,
                              Format format, const void* up_value, Format up_format, Rows out) {
  const int64_t t = blockIdx.x;
  const int h = blockIdx.y;
  if (!in_range(rows, b.token_row[t])) return;
  const int64_t from = (t * s.heads + h) * s.kv_lora;
  const int64_t to = t * out.stride + int64_t{h} * s.value_dims;
  const bool valid = b.token_valid[t] != 0;
  const int lane = static_cast<int>(threadIdx.x % 32);
  for (int v = static_cast<int>(threadIdx.x / 32); v < s.value_dims;
       v += static_cast<int>(blockDim.x / 32)) {
    const int64_t up = (int64_t{h} * s.value_dims + v) * s.kv_lora;
    float sum = 0.0F;
    for (int c = lane; c < s.kv_lora && valid; c += 32)
      sum += load_number(latents, format, from + c) * load_number(up_value, up_format, up + c);
    sum = warp_sum(sum);
    if (lane == 0) store_number(out.data, out.format, to + v, sum);
  }
}

dim3 per_head(const MlaShape& shape, int64_t tokens) {
  return dim3(static_cast<unsigned>(tokens), static_cast<unsigned>(shape.heads));
}

}  // namespace

void mla_write(cudaStream_t stream, const MlaShape& shape, const AttentionBatch& batch, Rows kv_a,
               const float* kv_norm, const QueryRope& rope) {
  if (batch.tokens == 0) return;
  launch_early(stream, write_kernel, dim3(static_cast<unsigned>(batch.tokens)), dim3(kThreads),
               shape, batch, kv_a, kv_norm, rope);
}

void mla_rope_queries(cudaStream_t stream, const MlaShape& shape, const AttentionBatch& batch,
                      const QueryRope& rope) {
  if (rope.tokens == 0) return;
  rope_kernel<<<static_cast<unsigned>(rope.tokens), kThreads, 0, stream>>>(shape, batch, rope);
}

void mla_absorb(cudaStream_t stream, const MlaShape& shape, const AttentionBatch& batch, Rows q,
                const HeadMatrices& up_key, Format format, void* out) {
  if (batch.tokens == 0) return;
  absorb_kernel<<<per_head(shape, batch.tokens), kThreads, 0, stream>>>(shape, batch, q, up_key,
                                                                        format, out);
}

void mla_attend(cudaStream_t stream, const MlaShape& shape, const AttentionBatch& batch,
                RowRange rows, const void* queries, Format format, void* out) {
  if (batch.tokens == 0) return;
  const size_t query_bytes = static_cast<size_t>(shape.kv_lora + shape.rope_dims) * sizeof(float);
  attend_kernel<<<per_head(shape, batch.tokens), kThreads, query_bytes, stream>>>(
      shape, batch, rows, queries, format, out);
}

void mla_values(cudaStream_t stream, const MlaShape& shape, const AttentionBatch& batch,
                RowRange rows, const void* latents, Format format, const void* up_value,
                Format up_format, Rows out) {
  if (batch.tokens == 0) return;
  values_kernel<<<per_head(shape, batch.tokens), kThreads, 0, stream>>>(
      shape, batch, rows, latents, format, up_value, up_format, out);
}

}  // namespace fathom::kernels
