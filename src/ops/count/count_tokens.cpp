// The step's frame and its tokens: bytes only.
#include "ops/count/count_ops.h"

namespace fathom {
namespace {

int64_t output_bytes(const SampleOutput& out) {
  int64_t bytes = 0;
  for (const Tensor* t :
       {&out.accepted, &out.new_count, &out.new_tokens, &out.drafted, &out.finish, &out.draft_count,
        &out.drafts, &out.logprob, &out.top_ids, &out.top_logprobs}) {
    if (t->defined()) bytes += t->bytes();
  }
  return bytes;
}

int64_t batch_bytes(const BatchView& batch) {
  int64_t bytes = 0;
  for (const Tensor* t : {&batch.row_slot, &batch.row_kind, &batch.row_first, &batch.row_query,
                          &batch.row_context, &batch.token_ids, &batch.token_row, &batch.positions,
                          &batch.token_valid, &batch.sample_tokens, &batch.sample_row}) {
    if (t->defined()) bytes += t->bytes();
  }
  return bytes;
}

}  // namespace

void CountOps::edit_slots(const SlotTable&, const StepPlan&) { called("edit_slots"); }

void CountOps::advance(const SlotTable&, const StepPlan&, BatchView& batch) {
  called("advance").bytes_written += batch_bytes(batch);
}

void CountOps::sample(const SlotTable& slots, const BatchView& batch, const Tensor& logits,
                      const std::vector<TokenId>&, SampleOutput& out) {
  take_scratch(scratch_.sample(batch.shape.rows, slots.limits.vocab_padded));
  OpCount& line = called("sample");
  line.flops += logits.elements();
  line.bytes_read += logits.bytes();
  line.bytes_written += output_bytes(out);
}

Tensor CountOps::next_tokens(const SlotTable&, const BatchView& batch) {
  const Tensor out = arena_.take(DType::kI32, {batch.shape.tokens});
  OpCount& line = called("next_tokens");
  line.bytes_read += out.bytes();
  line.bytes_written += out.bytes();
  return out;
}

Tensor CountOps::last_accepted(const BatchView& batch, const SampleOutput&) {
  const Tensor out = arena_.take(DType::kI32, {batch.shape.rows});
  OpCount& line = called("last_accepted");
  line.bytes_read += 2 * out.bytes();
  line.bytes_written += out.bytes();
  return out;
}

void CountOps::propose(const SlotTable&, const BatchView& batch, const Tensor& logits, int32_t,
                       SampleOutput&) {
  OpCount& line = called("propose");
  line.flops += logits.elements();
  line.bytes_read += logits.bytes();
  line.bytes_written += int64_t{batch.shape.rows} * 16;
}

void CountOps::apply_samples(const SlotTable&, const BatchView&, const SampleOutput& out) {
  OpCount& line = called("apply_samples");
  line.bytes_read += output_bytes(out);
  line.bytes_written += output_bytes(out);
}

}  // namespace fathom
