// Prefill rows of multi-head latent attention.
#include "ops/cuda/cuda_ops.h"
#include "ops/cuda/mla_call.h"

namespace fathom {

// The absorbed form on plain kernels. Projections cover the tokens of all rows, for where the first
// prefill token lies is known on the device alone.
void CudaOps::mla_prefill_rows(const MlaCall& call) {
  const StepShape& shape = call.batch.shape;
  const MlaParams& p = call.p;
  ArenaScope scope(arena_);
  const Tensor queries = arena_.take(act_dtype(), {shape.tokens, p.heads, p.kv_lora + p.rope_dims});
  const Tensor latents = arena_.take(act_dtype(), {shape.tokens, p.heads, p.kv_lora});
  mla_absorb(call, queries, true);
  kernels::mla_attend(stream_, call.shape, call.tokens, {shape.decode_rows, shape.rows},
                      queries.data, act_format(), latents.data);
  mla_values(call, latents, shape.decode_rows, shape.rows);
}

}  // namespace fathom
