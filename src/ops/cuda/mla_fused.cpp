// Decode and verify rows of latent attention in three launches: kernels/mla_entry, mla_decode and
// mla_output, for the dimensions of DeepSeek-V2 and V3.
#include "kernels/mla_entry.h"
#include "kernels/mla_output.h"
#include "ops/cuda/cuda_ops.h"
#include "ops/cuda/mla_call.h"
#include "ops/cuda/slot_arrays.h"

namespace fathom {
namespace {

using kernels::Format;

kernels::MlaEntryCall entry_call(const MlaCall& call, const Tensor& queries) {
  kernels::MlaEntryCall entry;
  entry.shape = call.shape;
  entry.batch = call.tokens;
  entry.kv_a = rows_of(call.kv_a);
  entry.kv_norm = call.p.kv_norm.as<float>();
  entry.q = rows_of(call.q);
  entry.up_key = call.p.up.key.data;
  entry.queries = queries.data;
  entry.query_tokens = queries.defined() ? queries.shape[0] : 0;
  return entry;
}

kernels::MlaOutputCall output_call(const MlaCall& call, const kernels::MlaDecodeCall& decode,
                                   const kernels::Epilogue& out) {
  kernels::MlaOutputCall output;
  output.rows = decode.rows;
  output.token_row = call.tokens.token_row;
  output.token_valid = call.tokens.token_valid;
  output.end_row = call.batch.shape.decode_rows;
  output.tokens = decode.tokens;
  output.heads = call.p.heads;
  output.latents = decode.out;
  output.partial = decode.partial;
  output.partial_weights = decode.partial_weights;
  output.up_value = call.p.up.value.data;
  output.out = out;
  return output;
}

}  // namespace

// All tokens' cache entries.
void CudaOps::mla_write_entries(const MlaCall& call) {
  const kernels::MlaEntryCall entry = entry_call(call, {});
  if (hopper_ && act_format() == Format::kBF16 && mla_entry_fits(entry)) {
    check(kernels::mla_entry(stream_, entry), "mla_attention");
    return;
  }
  kernels::mla_write(stream_, call.shape, call.tokens, rows_of(call.kv_a),
                     call.p.kv_norm.as<float>(), {});
}

// All tokens' cache entries, and the decode and verify rows to `out`; false, and nothing is done,
// where the kernels do not fit.
bool CudaOps::mla_decode_fused(const MlaCall& call, int64_t decode_tokens,
                               const kernels::Epilogue& out) {
  const kernels::MlaDecodeDesc desc = mla_decode_desc(call);
  const kernels::MlaDecodeConfig config = kernels::choose_mla_decode(desc);
  const MlaParams& p = call.p;
  if (config.kind == kernels::MlaDecodeKind::kPlain || !mla_products(call) ||
      p.value_dims != kernels::kMlaValue) {
    return false;
  }
  ArenaScope scope(arena_);
  const Tensor queries =
      arena_.take(act_dtype(), {decode_tokens, p.heads, p.kv_lora + p.rope_dims});
  const Tensor latents = arena_.take(act_dtype(), {decode_tokens, p.heads, p.kv_lora});
  const kernels::MlaEntryCall entry = entry_call(call, queries);
  kernels::MlaDecodeCall decode = mla_decode_call(call, config, queries, latents);
  decode.merge = false;
  kernels::MlaOutputCall output = output_call(call, decode, out);
  if (!mla_entry_fits(entry) || !mla_output_fits(output)) return false;
  // Before the entry, which is what later kernels rely on when they read it early.
  mla_make_schedule(desc, config, decode.rows, decode_schedule_);
  output.schedule = decode_schedule_.arrays;
  check(kernels::mla_entry(stream_, entry), "mla_attention");
  check(kernels::mla_decode(stream_, desc, config, output.schedule, decode), "mla_attention");
  check(kernels::mla_output(stream_, config, output), "mla_attention");
  return true;
}

}  // namespace fathom
