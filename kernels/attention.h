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

// Norm of the latent, rope of the shared key, store at the token's place. kv_a: [tokens, kv_lora +
// rope_dims].
void mla_write(cudaStream_t stream, const MlaShape& shape, const AttentionBatch& batch, Rows kv_a,
               const float* kv_norm);

// Queries into the latent's space: out [tokens, heads, kv_lora + rope_dims] float32, rounded to
// `round`. q: [tokens, heads * (nope + rope)]; up_key: [heads, nope, kv_lora] of up_format.
void mla_absorb(cudaStream_t stream, const MlaShape& shape, const AttentionBatch& batch, Rows q,
                const void* up_key, Format up_format, Format round, float* out);

// Softmax-weighted latents: out [tokens, heads, kv_lora] float32, rounded to `round`; zeros for
// padding tokens.
void mla_attend(cudaStream_t stream, const MlaShape& shape, const AttentionBatch& batch,
                const float* queries, Format round, float* out);

// out[t, h, :] = up_value[h] * latents[t, h, :]; up_value: [heads, value_dims, kv_lora] of
// up_format.
void mla_values(cudaStream_t stream, const MlaShape& shape, int64_t tokens, const float* latents,
                const void* up_value, Format up_format, float* out);

}  // namespace fathom::kernels
