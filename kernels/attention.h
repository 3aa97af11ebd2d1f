// Multi-head latent attention over the paged latent cache, absorbed form (models: DeepSeek-V2,
// section 2.1.2).
#pragma once

#include "attention_batch.h"

namespace fathom::kernels {

struct MlaShape {
  int32_t heads = 0;
  int32_t nope_dims = 0;
  int32_t rope_dims = 0;
  int32_t value_dims = 0;
  int32_t kv_lora = 0;
  int32_t block_tokens = 0;
  float softmax_scale = 0.0F;
  float norm_epsilon = 0.0F;
};

// Rows [first, end) of a step.
struct RowRange {
  int32_t first = 0;
  int32_t end = 0;
};

// The heads' rope parts of the first `tokens` queries q, rotated, go into the last columns of
// `out`: bf16 [tokens, heads, kv_lora + rope_dims].
struct QueryRope {
  Rows q;  // [tokens, heads * (nope + rope)]
  void* out = nullptr;
  int64_t tokens = 0;
};

// Norm of the latent, rope of the shared key, store at the token's place; kv_a: [tokens, kv_lora +
// rope_dims]. Beside it the queries' rope.
void mla_write(cudaStream_t stream, const MlaShape& shape, const AttentionBatch& batch, Rows kv_a,
               const float* kv_norm, const QueryRope& rope);
void mla_rope_queries(cudaStream_t stream, const MlaShape& shape, const AttentionBatch& batch,
                      const QueryRope& rope);

// Up-projections of all heads: element (head, row, column) at head * rows * columns + row *
// row_stride + column * column_stride.
struct HeadMatrices {
  const void* data = nullptr;
  Format format = Format::kF32;
  int64_t row_stride = 0;
  int64_t column_stride = 1;
};

// Queries into the latent's space: out [tokens, heads, kv_lora + rope_dims] of `format`. q:
// [tokens, heads * (nope + rope)]; up_key: [heads, nope, kv_lora].
void mla_absorb(cudaStream_t stream, const MlaShape& shape, const AttentionBatch& batch, Rows q,
                const HeadMatrices& up_key, Format format, void* out);

// Softmax-weighted latents: out [tokens, heads, kv_lora], queries and out of `format`; weights are
// rounded as docs/numerics.md says. Writes valid tokens of `rows`.
void mla_attend(cudaStream_t stream, const MlaShape& shape, const AttentionBatch& batch,
                RowRange rows, const void* queries, Format format, void* out);

// out[t, h, :] = up_value[h] * latents[t, h, :] of the tokens of `rows`, zeros for padding; latents
// of `format`, up_value: [heads, value_dims, kv_lora] of up_format.
void mla_values(cudaStream_t stream, const MlaShape& shape, const AttentionBatch& batch,
                RowRange rows, const void* latents, Format format, const void* up_value,
                Format up_format, Rows out);

}  // namespace fathom::kernels
