// Drafts for the next step, and the last stage's samples on the other pipeline stages.
#include <algorithm>

#include "ops/cpu/cpu_ops_impl.h"
#include "ops/cpu/sampler.h"
#include "ops/cpu/slot_row.h"

namespace fathom {

void CpuOps::propose(const SlotTable& slots, const BatchView& batch, const Tensor& logits,
                     int32_t index, SampleOutput& out) {
  FATHOM_CHECK(index < slots.limits.drafts_max, "more drafts than a slot can carry");
  FATHOM_CHECK(logits.shape[0] == batch.shape.rows, "drafts need a row of logits per row");
  for (int32_t r = 0; r < batch.shape.rows; ++r) {
    const SlotRow slot(slots, batch.row_slot.as<int32_t>()[r]);
    if (slot.finished() != FinishReason::kNone || slot.length() != slot.computed() + 1) continue;
    const TokenId draft = argmax(logits.as<float>() + r * logits.stride[0], slots.limits.vocab);
    slot.drafts()[index] = draft;
    slot.draft_count() = index + 1;
    out.drafts.as<int32_t>()[r * out.drafts.stride[0] + index] = draft;
    out.draft_count.as<int32_t>()[r] = index + 1;
  }
}

void CpuOps::apply_samples(const SlotTable& slots, const BatchView& batch,
                           const SampleOutput& out) {
  for (int32_t r = 0; r < batch.shape.rows; ++r) {
    const SlotRow slot(slots, batch.row_slot.as<int32_t>()[r]);
    const int32_t fresh = out.new_count.as<int32_t>()[r];
    const int32_t* tokens = out.new_tokens.as<int32_t>() + r * out.new_tokens.stride[0];
    std::copy_n(tokens, fresh, slot.history() + slot.length());
    slot.length() += fresh;
    slot.computed() += out.accepted.as<int32_t>()[r];
    if (fresh > 0) slot.finish(static_cast<FinishReason>(out.finish.as<uint8_t>()[r]));
    slot.draft_count() = out.draft_count.as<int32_t>()[r];
    if (slot.draft_count() > 0) {
      std::copy_n(out.drafts.as<int32_t>() + r * out.drafts.stride[0], slot.draft_count(),
                  slot.drafts());
    }
  }
}

}  // namespace fathom
