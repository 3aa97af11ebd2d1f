// Grouped-query attention on plain kernels.
#include "kernels/gqa.h"

#include "ops/cuda/cuda_ops.h"
#include "ops/cuda/slot_arrays.h"

namespace fathom {
namespace {

constexpr int32_t kHeadDimsMax = 256;

const float* floats_of(const Tensor& t) { return t.defined() ? t.as<float>() : nullptr; }

}  // namespace

Act CudaOps::gqa_attention(const BatchView& batch, const KvView& cache, const Tensor& qkv,
                           const GqaParams& p) {
  const int64_t tokens = batch.shape.tokens;
  const int64_t columns = int64_t{p.heads} * p.head_dims;
  FATHOM_CHECK(p.head_dims <= kHeadDimsMax && p.head_dims % 2 == 0,
               "this backend has heads of up to 256 dimensions");
  FATHOM_CHECK(cache.cache.shape[2] == 2 * int64_t{p.kv_heads} * p.head_dims &&
                   qkv.shape[1] == columns + cache.cache.shape[2],
               "gqa_attention's inputs differ in shape");
  const Act act = take_act(tokens, columns, p.out);
  ArenaScope scope(arena_);
  const kernels::GqaShape shape{p.heads,         p.kv_heads,    p.head_dims, cache.block_tokens,
                                p.softmax_scale, p.norm_epsilon};
  const kernels::AttentionBatch b = attention_batch(batch, cache, p.rope);
  const kernels::GqaHeads heads{floats_of(p.bias), floats_of(p.q_norm), floats_of(p.k_norm)};
  float* queries = floats(tokens * columns);
  kernels::gqa_prepare(stream_, shape, b, heads, rows_of(qkv), act_format(), queries);
  float* out = floats(tokens * columns);
  kernels::gqa_attend(stream_, shape, b, queries, out);
  finish(out, tokens, columns, act);
  check(cudaGetLastError(), "gqa_attention");
  return act;
}

}  // namespace fathom
