// Grouped-query attention, plain: one block prepares a head, one block attends for a (token, head).
#include "gqa.h"
#include "gqa_fp8_cache.cuh"
#include "number.cuh"

namespace fathom::kernels {
namespace {

constexpr int kThreads = 128;
constexpr int kDimsMax = 256;
constexpr int kParts = kDimsMax / kThreads;

// Number of the cache at which a token's key (half 0) or value (1) of one head begins.
__device__ int64_t entry_at(const GqaShape& s, const AttentionBatch& b, int32_t slot,
                            int32_t position, int head, int half) {
  const int64_t block = b.block_table[slot * b.table_stride + position / s.block_tokens];
  const int64_t inside = position % s.block_tokens;
  if (b.cache_format == Format::kFp8)
    return block * fp8_block_bytes(s) + fp8_codes_at(s, inside, head, half);
  return ((block * s.block_tokens + inside) * 2 * s.kv_heads + half * s.kv_heads + head) *
         s.head_dims;
}

// The factor of a cached key or value.
__device__ float scale_of(const GqaShape& s, const AttentionBatch& b, int32_t slot,
                          int32_t position, int head, int half) {
  if (b.cache_format != Format::kFp8) return 1.0F;
  const int64_t block = b.block_table[slot * b.table_stride + position / s.block_tokens];
  const int64_t at = block * fp8_block_bytes(s) +
                     fp8_scale_at(s, position % s.block_tokens, head, half);
  return __bfloat162float(
      *reinterpret_cast<const Fp8Scale*>(static_cast<const uint8_t*>(b.cache) + at));
}

// Block (t, h): h counts the query heads, then key heads, then value heads of a row of qkv.
__global__ void prepare_kernel(GqaShape s, AttentionBatch b, GqaHeads heads, Rows qkv,
                               Rows queries) {
  __shared__ float shared[32];
  __shared__ float head[kDimsMax];
  const int64_t t = blockIdx.x;
  const int h = static_cast<int>(blockIdx.y);
  if (b.token_valid[t] == 0) return;
  const bool is_query = h < s.heads;
  const bool is_value = h >= s.heads + s.kv_heads;
  const int64_t column = int64_t{h} * s.head_dims;
  float squares = 0.0F;
  for (int d = static_cast<int>(threadIdx.x); d < s.head_dims; d += kThreads) {
    float x = load_number(qkv.data, qkv.format, t * qkv.stride + column + d);
    if (heads.bias != nullptr) x += heads.bias[column + d];
    head[d] = x;
    squares += x * x;
  }
  const float* norm = is_query ? heads.q_norm : heads.k_norm;
  if (norm != nullptr && !is_value) {
    const float mean = block_sum(squares, shared) / static_cast<float>(s.head_dims);
    const float scale = 1.0F / sqrtf(mean + s.norm_epsilon);
    for (int d = static_cast<int>(threadIdx.x); d < s.head_dims; d += kThreads) {
      head[d] = head[d] * scale * norm[d];
    }
  }
  __syncthreads();
  const int32_t position = b.positions[t];
  const int key_head = (h - s.heads) % s.kv_heads;
  const int64_t to = is_query ? 0
                              : entry_at(s, b, b.row_slot[b.token_row[t]], position, key_head,
                                         is_value ? 1 : 0);
  const int half = s.head_dims / 2;
  for (int d = static_cast<int>(threadIdx.x); d < s.head_dims; d += kThreads) {
    float x = head[d];
    if (!is_value) {
      const int pair = d < half ? d : d - half;
      const float c = b.cosines[position * b.rope_stride + pair];
      const float sine = b.sines[position * b.rope_stride + pair];
      x = d < half ? x * c - head[d + half] * sine : x * c + head[pair] * sine;
    }
    if (is_query) {
      store_number(queries.data, queries.format, t * queries.stride + column + d, x);
    } else {
      store_number(b.cache, b.cache_format, to + d, x);
    }
  }
}

// Scores of kThreads positions at a time (a warp a position in turn), running softmax, then each
// thread adds to its own dims.
__global__ void attend_kernel(GqaShape s, AttentionBatch b, Rows queries, int32_t first_row,
                              int32_t end_row, float* out) {
  __shared__ float shared[32];
  __shared__ float query[kDimsMax];
  __shared__ float weights[kThreads];
  __shared__ int64_t keys[kThreads];
  __shared__ int64_t values[kThreads];
  __shared__ float key_scales[kThreads];
  __shared__ float value_scales[kThreads];
  const int64_t t = blockIdx.x;
  const int h = static_cast<int>(blockIdx.y);
  const int tid = static_cast<int>(threadIdx.x);
  float* to = out + (t * s.heads + h) * s.head_dims;
  if (b.token_valid[t] == 0) {
    for (int d = tid; d < s.head_dims; d += kThreads) to[d] = 0.0F;
    return;
  }
  if (b.token_row[t] < first_row || b.token_row[t] >= end_row) return;
  for (int d = tid; d < s.head_dims; d += kThreads) {
    query[d] = load_number(queries.data, queries.format, t * queries.stride + h * s.head_dims + d);
  }
  const int32_t slot = b.row_slot[b.token_row[t]];
  const int32_t visible = b.positions[t] + 1;
  const int key_head = h / (s.heads / s.kv_heads);
  float sums[kParts] = {};
  float peak = -INFINITY;
  float total = 0.0F;
  for (int32_t first = 0; first < visible; first += kThreads) {
    const int count = min(kThreads, visible - first);
    __syncthreads();
    if (tid < count) {
      keys[tid] = entry_at(s, b, slot, first + tid, key_head, 0);
      values[tid] = entry_at(s, b, slot, first + tid, key_head, 1);
      key_scales[tid] = scale_of(s, b, slot, first + tid, key_head, 0);
      value_scales[tid] = scale_of(s, b, slot, first + tid, key_head, 1);
    }
    __syncthreads();
    for (int j = tid / 32; j < count; j += kThreads / 32) {
      float dot = 0.0F;
      for (int d = tid % 32; d < s.head_dims; d += 32) {
        dot += query[d] * load_number(b.cache, b.cache_format, keys[j] + d);
      }
      dot = warp_sum(dot);
      if (tid % 32 == 0) weights[j] = dot * key_scales[j] * s.softmax_scale;
    }
    __syncthreads();
    const float mine = tid < count ? weights[tid] : -INFINITY;
    const float next_peak = fmaxf(peak, block_max(mine, shared));
    const float weight = tid < count ? expf(mine - next_peak) : 0.0F;
    const float fade = expf(peak - next_peak);
    total = total * fade + block_sum(weight, shared);
    weights[tid] = tid < count ? weight * value_scales[tid] : 0.0F;
    peak = next_peak;
    __syncthreads();
    for (int part = 0; part < kParts; ++part) {
      const int d = tid + part * kThreads;
      if (d >= s.head_dims) break;
      float sum = sums[part] * fade;
      for (int j = 0; j < count; ++j) {
        sum += weights[j] * load_number(b.cache, b.cache_format, values[j] + d);
      }
      sums[part] = sum;
    }
  }
  for (int part = 0; part < kParts; ++part) {
    const int d = tid + part * kThreads;
    if (d < s.head_dims) to[d] = sums[part] / total;
  }
}

dim3 per_head(int64_t tokens, int32_t heads) {
  return dim3(static_cast<unsigned>(tokens), static_cast<unsigned>(heads));
}

}  // namespace

void gqa_prepare(cudaStream_t stream, const GqaShape& shape, const AttentionBatch& batch,
                 const GqaHeads& heads, Rows qkv, Rows queries) {
  if (batch.tokens == 0) return;
  prepare_kernel<<<per_head(batch.tokens, shape.heads + 2 * shape.kv_heads), kThreads, 0, stream>>>(
      shape, batch, heads, qkv, queries);
}

void gqa_attend(cudaStream_t stream, const GqaShape& shape, const AttentionBatch& batch,
                Rows queries, int32_t first_row, int32_t end_row, float* out) {
  if (batch.tokens == 0) return;
  attend_kernel<<<per_head(batch.tokens, shape.heads), kThreads, 0, stream>>>(
      shape, batch, queries, first_row, end_row, out);
}

}  // namespace fathom::kernels
