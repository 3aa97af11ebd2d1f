// Latent and grouped attention: what the rows of a step may cost at the longest context.
#include <algorithm>

#include "fathom/fp8_cache.h"
#include "ops/count/count_ops.h"

namespace fathom {
namespace {

// Rows of one class and their (query, key) pairs.
struct RowClass {
  int64_t rows = 0;
  int64_t tokens = 0;
  int64_t pairs = 0;
};

// `tokens` spread evenly over `rows`, each row ending at `context`.
RowClass row_class(int64_t rows, int64_t tokens, int64_t context) {
  if (rows <= 0 || tokens <= 0) return {};
  const int64_t each = (tokens + rows - 1) / rows;
  const int64_t per_row = each * context - each * (each - 1) / 2;
  return {rows, tokens, rows * std::max<int64_t>(per_row, 0)};
}

// Rows of a step by class: decode and verify rows, then prefill rows.
struct StepRows {
  RowClass decode;
  RowClass prefill;
};

StepRows step_rows(const StepShape& shape) {
  const int64_t context = shape.context_tokens_max;
  const int64_t decode_tokens = std::min<int64_t>(
      shape.tokens, int64_t{shape.decode_rows} * std::max(shape.query_tokens_max, 1));
  return {row_class(shape.decode_rows, decode_tokens, context),
          row_class(shape.rows - shape.decode_rows, shape.tokens - decode_tokens, context)};
}

struct Costs {
  int64_t flops = 0;
  int64_t bytes = 0;  // of the cache, and of the up-projections once per class
};

int64_t up_bytes(const MlaParams& p) { return p.up.key.bytes() + p.up.value.bytes(); }

Costs absorbed(const RowClass& c, const MlaParams& p, int64_t context, int64_t entry_bytes) {
  if (c.tokens == 0) return {};
  const int64_t heads = p.heads;
  Costs costs;
  costs.flops = 2 * c.tokens * heads * (p.nope_dims + p.value_dims) * p.kv_lora +
                2 * c.pairs * heads * (2 * p.kv_lora + p.rope_dims);
  costs.bytes = c.rows * context * entry_bytes + up_bytes(p);
  return costs;
}

Costs naive(const RowClass& c, const MlaParams& p, int64_t context, int64_t entry_bytes) {
  if (c.tokens == 0) return {};
  const int64_t heads = p.heads;
  Costs costs;
  costs.flops = 2 * c.rows * context * p.kv_lora * heads * (p.nope_dims + p.value_dims) +
                2 * c.pairs * heads * (p.nope_dims + p.rope_dims + p.value_dims);
  costs.bytes = c.rows * context * entry_bytes + up_bytes(p);
  return costs;
}

}  // namespace

Act CountOps::mla_attention(const BatchView& batch, const KvView& cache, const Tensor& q,
                            const Tensor& kv_a, const MlaParams& p, MlaForm form) {
  const StepShape& shape = batch.shape;
  const int64_t entry = p.kv_lora + p.rope_dims;
  const bool fp8 = cache.cache.dtype == DType::kF8E4M3;
  const int64_t entry_bytes = fp8 ? Fp8LatentLayout{p.kv_lora, p.rope_dims}.entry_bytes()
                                  : entry * dtype_bytes(cache.cache.dtype);
  FATHOM_CHECK(
      q.shape[1] == int64_t{p.heads} * (p.nope_dims + p.rope_dims) && kv_a.shape[1] == entry,
      "query or latent has another width");
  const Act act = make_act(shape.tokens, int64_t{p.heads} * p.value_dims, p.out);
  const int64_t context = shape.context_tokens_max;
  const auto [decode, prefill] = step_rows(shape);

  take_scratch(scratch_.mla(batch, cache, p));

  const Costs first = form == MlaForm::kNaive ? naive(decode, p, context, entry_bytes)
                                              : absorbed(decode, p, context, entry_bytes);
  Costs second = absorbed(prefill, p, context, entry_bytes);
  if (form != MlaForm::kAbsorbed) {
    const Costs other = naive(prefill, p, context, entry_bytes);
    if (form == MlaForm::kNaive || other.flops < second.flops) second = other;
  }
  OpCount& line = called("mla_attention");
  line.flops += first.flops + second.flops + 4 * shape.tokens * p.kv_lora;
  line.bytes_read += q.bytes() + kv_a.bytes() + first.bytes + second.bytes;
  line.bytes_written += act_bytes(act) + shape.tokens * entry_bytes;
  return act;
}

Act CountOps::gqa_attention(const BatchView& batch, const KvView& cache, const Tensor& qkv,
                            const GqaParams& p) {
  const StepShape& shape = batch.shape;
  const int64_t columns = int64_t{p.heads} * p.head_dims;
  const int64_t entry = 2 * int64_t{p.kv_heads} * p.head_dims;
  const bool fp8 = cache.cache.dtype == DType::kF8E4M3;
  const Fp8HeadsLayout layout{p.kv_heads, p.head_dims, cache.block_tokens};
  const int64_t entry_bytes =
      fp8 ? layout.entry_bytes() : entry * dtype_bytes(cache.cache.dtype);
  FATHOM_CHECK(qkv.shape[1] == columns + entry &&
                   cache.cache.shape[2] == entry_bytes / dtype_bytes(cache.cache.dtype),
               "queries, keys and values or the cache have another width");
  const Act act = make_act(shape.tokens, columns, p.out);

  take_scratch(scratch_.gqa(batch, cache, p));

  const auto [decode, prefill] = step_rows(shape);
  OpCount& line = called("gqa_attention");
  line.flops += 4 * (decode.pairs + prefill.pairs) * columns;
  line.bytes_read +=
      qkv.bytes() + (decode.rows + prefill.rows) * shape.context_tokens_max * entry_bytes;
  line.bytes_written += act_bytes(act) + shape.tokens * entry_bytes;
  return act;
}

}  // namespace fathom
