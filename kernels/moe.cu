// Routing, expert products and their weighted sum, one warp an output.
#include "moe.h"

#include "number.cuh"

namespace fathom::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kGroupsMax = 32;
constexpr int kChoicesMax = 32;

__device__ void score(const RouterShape& s, float* x) {
  if (s.sigmoid) {
    for (int e = 0; e < s.experts; ++e) x[e] = 1.0F / (1.0F + expf(-x[e]));
    return;
  }
  float most = x[0];
  for (int e = 1; e < s.experts; ++e) most = fmaxf(most, x[e]);
  float sum = 0.0F;
  for (int e = 0; e < s.experts; ++e) sum += x[e] = expf(x[e] - most);
  for (int e = 0; e < s.experts; ++e) x[e] /= sum;
}

__device__ float choice_of(const float* scores, const float* bias, int e) {
  return scores[e] + (bias != nullptr ? bias[e] : 0.0F);
}

// Bit g is set for every group that a token may choose from.
__device__ uint32_t open_groups(const RouterShape& s, const float* scores, const float* bias) {
  if (s.groups == 1) return 1;
  float best[kGroupsMax];
  const int size = s.experts / s.groups;
  for (int g = 0; g < s.groups; ++g) {
    float first = -INFINITY;
    float second = -INFINITY;
    for (int i = 0; i < size; ++i) {
      const float v = choice_of(scores, bias, g * size + i);
      second = fmaxf(second, fminf(first, v));
      first = fmaxf(first, v);
    }
    best[g] = s.top_two_sum && size > 1 ? first + second : first;
  }
  uint32_t open = 0;
  for (int n = 0; n < s.groups_per_token; ++n) {
    int at = -1;
    for (int g = 0; g < s.groups; ++g) {
      if ((open >> g & 1) == 0 && (at < 0 || best[g] > best[at])) at = g;
    }
    open |= 1U << at;
  }
  return open;
}

// One thread a token: experts are few and this is the plain form.
__global__ void route_kernel(RouterShape s, int64_t tokens, float* scores, const float* bias,
                             int32_t* ids, float* weights) {
  const int64_t t = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (t >= tokens) return;
  float* x = scores + t * s.experts;
  score(s, x);
  const uint32_t open = open_groups(s, x, bias);
  const int size = s.experts / s.groups;
  int chosen[kChoicesMax];
  float sum = 0.0F;
  for (int n = 0; n < s.experts_per_token; ++n) {
    int at = -1;
    float best = -INFINITY;
    for (int e = 0; e < s.experts; ++e) {
      if ((open >> (e / size) & 1) == 0) continue;
      bool taken = false;
      for (int i = 0; i < n; ++i) taken |= chosen[i] == e;
      const float v = choice_of(x, bias, e);
      if (!taken && (at < 0 || v > best)) {
        at = e;
        best = v;
      }
    }
    chosen[n] = at;
    sum += x[at];
  }
  for (int i = 1; i < s.experts_per_token;
       ++i) {  // ascending: the order in which outputs are summed
    for (int j = i; j > 0 && chosen[j - 1] > chosen[j]; --j) {
      const int swap = chosen[j];
      chosen[j] = chosen[j - 1];
      chosen[j - 1] = swap;
    }
  }
  const float factor = s.normalize ? s.scale / (sum + 1e-20F) : s.scale;
  for (int n = 0; n < s.experts_per_token; ++n) {
    ids[t * s.experts_per_token + n] = chosen[n];
    weights[t * s.experts_per_token + n] = x[chosen[n]] * factor;
  }
}

__global__ void expert_kernel(const Matrix* experts, int32_t first_expert, int32_t expert_count,
                              const int32_t* ids, const uint8_t* token_valid, int32_t k, Rows x,
                              bool by_pair, int64_t out_columns, float* out, Format round) {
  const int64_t pair = blockIdx.y;
  const int64_t t = pair / k;
  const int32_t e = ids[pair] - first_expert;
  if (token_valid[t] == 0 || e < 0 || e >= expert_count) return;
  const int64_t o = int64_t{blockIdx.x} * (blockDim.x / 32) + threadIdx.x / 32;
  if (o >= out_columns) return;
  const Matrix& w = experts[e];
  const int64_t i = by_pair ? pair : t;
  const int lane = static_cast<int>(threadIdx.x % 32);
  const bool scaled = w.format == Format::kFp8;
  const float* x_scales = x.scales != nullptr ? x.scales + i * x.scale_stride : nullptr;
  const int64_t width = scaled ? 128 : w.in;
  const int64_t offset = scaled ? w.first_column_in_block : 0;
  float total = 0.0F;
  for (int64_t block = 0, begin = 0; begin < w.in; ++block) {
    const int64_t end = min(w.in, (block + 1) * width - offset);
    float part = 0.0F;
    for (int64_t c = begin + lane; c < end; c += 32) {
      part += load_number(x.data, x.format, i * x.stride + c) *
              load_number(w.data, w.format, o * w.stride + c);
    }
    float scale = scaled ? w.scales[w.scale_rows[o] * w.scale_stride + block] : 1.0F;
    if (x_scales != nullptr) scale *= x_scales[block];
    total += part * scale;
    begin = end;
  }
  total = warp_sum(total);
  if (lane == 0) out[pair * out_columns + o] = round_number(round, total);
}

__global__ void combine_kernel(Rows pairs, const int32_t* ids, const float* weights,
                               const uint8_t* token_valid, int32_t k, int32_t first_expert,
                               int32_t expert_count, int64_t columns, const float* shared,
                               Rows out) {
  const int64_t t = blockIdx.x;
  const bool valid = token_valid[t] != 0;
  for (int64_t c = threadIdx.x; c < columns; c += blockDim.x) {
    float total = 0.0F;
    for (int32_t j = 0; valid && j < k; ++j) {
      const int32_t e = ids[t * k + j] - first_expert;
      if (e < 0 || e >= expert_count) continue;
      total += weights[t * k + j] *
               load_number(pairs.data, pairs.format, (t * k + j) * pairs.stride + c);
    }
    if (shared != nullptr) total += shared[t * columns + c];
    store_number(out.data, out.format, t * out.stride + c, total);
  }
}

// The same for bf16 pairs: a thread has eight columns of one token.
__global__ void __launch_bounds__(kThreads)
    combine_wide_kernel(Rows pairs, const int32_t* ids, const float* weights,
                        const uint8_t* token_valid, int32_t k, int32_t first_expert,
                        int32_t expert_count, int64_t columns, const float* shared, Rows out) {
  const int64_t t = blockIdx.x;
  const bool valid = token_valid[t] != 0;
  const auto* values = static_cast<const __nv_bfloat16*>(pairs.data) + t * k * pairs.stride;
  for (int64_t c = 8 * int64_t{threadIdx.x}; c < columns; c += 8 * kThreads) {
    float total[8] = {};
    for (int32_t j = 0; valid && j < k; ++j) {
      const int32_t e = ids[t * k + j] - first_expert;
      if (e < 0 || e >= expert_count) continue;
      const float weight = weights[t * k + j];
      const uint4 row = __ldcs(reinterpret_cast<const uint4*>(values + j * pairs.stride + c));
      const uint32_t words[4] = {row.x, row.y, row.z, row.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        total[2 * i] += weight * __uint_as_float(words[i] << 16);
        total[2 * i + 1] += weight * __uint_as_float(words[i] & 0xFFFF0000U);
      }
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (shared != nullptr) total[i] += shared[t * columns + c + i];
      store_number(out.data, out.format, t * out.stride + c + i, total[i]);
    }
  }
}

}  // namespace

void route(cudaStream_t stream, const RouterShape& shape, int64_t tokens, float* scores,
           const float* bias, int32_t* ids, float* weights) {
  if (tokens == 0) return;
  const unsigned blocks = static_cast<unsigned>((tokens + 31) / 32);
  route_kernel<<<blocks, 32, 0, stream>>>(shape, tokens, scores, bias, ids, weights);
}

void expert_linear(cudaStream_t stream, const Matrix* experts, int32_t first_expert,
                   int32_t expert_count, const int32_t* ids, const uint8_t* token_valid,
                   int64_t tokens, int32_t k, Rows x, bool by_pair, int64_t out_columns, float* out,
                   Format round) {
  if (tokens == 0) return;
  const dim3 blocks(static_cast<unsigned>((out_columns + 7) / 8),
                    static_cast<unsigned>(tokens * k));
  expert_kernel<<<blocks, kThreads, 0, stream>>>(experts, first_expert, expert_count, ids,
                                                 token_valid, k, x, by_pair, out_columns, out,
                                                 round);
}

void combine(cudaStream_t stream, Rows pairs, const int32_t* ids, const float* weights,
             const uint8_t* token_valid, int64_t tokens, int32_t k, int32_t first_expert,
             int32_t expert_count, int64_t columns, const float* shared, Rows out) {
  if (tokens == 0) return;
  auto* kernel = pairs.format == Format::kBF16 && columns % 8 == 0 ? combine_wide_kernel
                                                                  : combine_kernel;
  kernel<<<static_cast<unsigned>(tokens), kThreads, 0, stream>>>(
      pairs, ids, weights, token_valid, k, first_expert, expert_count, columns, shared, out);
}

}  // namespace fathom::kernels
