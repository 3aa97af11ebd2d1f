// Tensors to pointers.
#include "ops/cuda/slot_arrays.h"

#include "ops/cuda/device.h"

namespace fathom {

kernels::SlotArrays slot_arrays(const SlotTable& t) {
  kernels::SlotArrays a;
  a.history = t.history.as<int32_t>();
  a.history_stride = t.history.stride[0];
  a.length = t.length.as<int32_t>();
  a.computed = t.computed.as<int32_t>();
  a.finished = t.finished.as<uint8_t>();
  a.block_table = t.block_table.as<int32_t>();
  a.group_stride = t.block_table.stride[0];
  a.blocks_max = t.block_table.stride[1];
  a.groups = t.limits.cache_groups;
  a.drafts = t.drafts.defined() ? t.drafts.as<int32_t>() : nullptr;
  a.drafts_max = t.drafts.defined() ? static_cast<int32_t>(t.drafts.stride[0]) : 0;
  a.draft_count = t.draft_count.as<int32_t>();
  a.sampling = t.sampling.as<kernels::SlotSamplingData>();
  a.bias_ids = t.bias_ids.as<int32_t>();
  a.bias_values = t.bias_values.as<float>();
  a.vocab = t.limits.vocab;
  a.vocab_padded = t.limits.vocab_padded;
  FATHOM_CHECK(t.sampling.stride[0] == static_cast<int64_t>(sizeof(SlotSampling)) &&
                   t.bias_ids.stride[0] == kernels::kBiasMax,
               "the slot table has another layout than the kernels'");
  return a;
}

kernels::BatchArrays batch_arrays(const BatchView& b) {
  kernels::BatchArrays a;
  a.row_slot = b.row_slot.as<int32_t>();
  a.row_kind = b.row_kind.as<int32_t>();
  a.row_first = b.row_first.as<int32_t>();
  a.row_query = b.row_query.as<int32_t>();
  a.row_context = b.row_context.as<int32_t>();
  a.token_ids = b.token_ids.as<int32_t>();
  a.token_row = b.token_row.as<int32_t>();
  a.positions = b.positions.as<int32_t>();
  a.token_valid = b.token_valid.as<uint8_t>();
  a.sample_tokens = b.sample_tokens.as<int32_t>();
  a.sample_row = b.sample_row.as<int32_t>();
  a.rows = b.shape.rows;
  a.tokens = b.shape.tokens;
  a.sample_rows = b.shape.sample_rows;
  return a;
}

kernels::OutputArrays output_arrays(const SampleOutput& o) {
  kernels::OutputArrays a;
  a.accepted = o.accepted.as<int32_t>();
  a.new_count = o.new_count.as<int32_t>();
  a.new_tokens = o.new_tokens.as<int32_t>();
  a.new_stride = o.new_tokens.stride[0];
  a.drafted = o.drafted.as<int32_t>();
  a.finish = o.finish.as<uint8_t>();
  a.draft_count = o.draft_count.as<int32_t>();
  a.drafts = o.drafts.defined() ? o.drafts.as<int32_t>() : nullptr;
  a.draft_stride = o.drafts.defined() ? o.drafts.stride[0] : 0;
  a.logprob = o.logprob.as<float>();
  a.top_ids = o.top_ids.as<int32_t>();
  a.top_logprobs = o.top_logprobs.as<float>();
  a.top_stride = o.top_ids.stride[0];
  return a;
}

kernels::AttentionBatch attention_batch(const BatchView& batch, const KvView& cache,
                                        const RopeTable& rope) {
  kernels::AttentionBatch a;
  a.positions = batch.positions.as<int32_t>();
  a.token_row = batch.token_row.as<int32_t>();
  a.token_valid = batch.token_valid.as<uint8_t>();
  a.row_slot = batch.row_slot.as<int32_t>();
  a.block_table = batch.block_table.as<int32_t>() + cache.group * batch.block_table.stride[0];
  a.table_stride = batch.block_table.stride[1];
  a.cosines = rope.cosines.as<float>();
  a.sines = rope.sines.as<float>();
  a.rope_stride = rope.cosines.stride[0];
  a.cache = cache.cache.data;
  a.cache_format = format_of(cache.cache.dtype);
  a.tokens = batch.shape.tokens;
  return a;
}

kernels::PrefillRows prefill_rows(const BatchView& batch, const kernels::AttentionBatch& tokens,
                                  int32_t first_row) {
  kernels::PrefillRows rows;
  rows.begin = first_row;
  rows.end = batch.shape.rows;
  rows.slot = tokens.row_slot;
  rows.first = batch.row_first.as<int32_t>();
  rows.query = batch.row_query.as<int32_t>();
  rows.context = batch.row_context.as<int32_t>();
  rows.block_table = tokens.block_table;
  rows.table_stride = tokens.table_stride;
  return rows;
}

}  // namespace fathom
