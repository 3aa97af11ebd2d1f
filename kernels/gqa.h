// Grouped-query attention over a paged cache of keys and values (models: Llama, Qwen2, Qwen3),
// plain.
#pragma once

#include "attention_batch.h"

namespace fathom::kernels {

struct GqaShape {
  int32_t heads = 0;
  int32_t kv_heads = 0;
  int32_t head_dims = 0;  // at most 256, even
  int32_t block_tokens = 0;
  float softmax_scale = 0.0F;
  float norm_epsilon = 0.0F;
};

// What the heads of qkv go through before their rope; each may be null.
struct GqaHeads {
  const float* bias = nullptr;    // [(heads + 2 * kv_heads) * head_dims]
  const float* q_norm = nullptr;  // [head_dims]
  const float* k_norm = nullptr;  // [head_dims]
};

// Bias, norm and rope. Queries go to `queries` [tokens, heads, head_dims]; keys and values to the
// token's place in the cache. qkv: [tokens, (heads + 2 * kv_heads) * head_dims].
void gqa_prepare(cudaStream_t stream, const GqaShape& shape, const AttentionBatch& batch,
                 const GqaHeads& heads, Rows qkv, Rows queries);

// Softmax-weighted values of the tokens of rows [first_row, end_row): out [tokens, heads,
// head_dims] float32; zeros for padding tokens.
void gqa_attend(cudaStream_t stream, const GqaShape& shape, const AttentionBatch& batch,
                Rows queries, int32_t first_row, int32_t end_row, float* out);

}  // namespace fathom::kernels
