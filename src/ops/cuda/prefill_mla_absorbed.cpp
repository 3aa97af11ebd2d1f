// Prefill rows of latent attention in the absorbed form: few tokens a row on a long cache, on the
// kernels of decode rows, a row's tokens times heads being their pairs.
#include "ops/cuda/cuda_ops.h"
#include "ops/cuda/mla_call.h"

namespace fathom {

// Projections cover the tokens of all rows, for where the first prefill token lies is known on the
// device alone.
bool CudaOps::mla_prefill_absorbed(const MlaCall& call) {
  const StepShape& shape = call.batch.shape;
  const MlaParams& p = call.p;
  kernels::MlaDecodeDesc desc = mla_decode_desc(call);
  desc.rows = shape.rows - shape.decode_rows;
  desc.query_tokens_max = shape.prefill_tokens_max;
  const kernels::MlaDecodeConfig config = kernels::choose_mla_decode(desc);
  if (config.kind == kernels::MlaDecodeKind::kPlain) return false;
  ArenaScope scope(arena_);
  const Tensor queries = arena_.take(act_dtype(), {shape.tokens, p.heads, p.kv_lora + p.rope_dims});
  const Tensor latents = arena_.take(act_dtype(), {shape.tokens, p.heads, p.kv_lora});
  mla_absorb(call, queries);
  kernels::MlaDecodeCall attention = mla_decode_call(call, config, queries, latents);
  attention.overlap = false;  // what comes before lets it start too early
  attention.rows.slot += shape.decode_rows;
  attention.rows.first += shape.decode_rows;
  attention.rows.query += shape.decode_rows;
  attention.rows.context += shape.decode_rows;
  mla_make_schedule(desc, config, attention.rows, prefill_schedule_);
  check(kernels::mla_decode(stream_, desc, config, prefill_schedule_.arrays, attention),
        "mla_attention");
  mla_values(call, latents, shape.decode_rows, shape.rows);
  return true;
}

}  // namespace fathom
