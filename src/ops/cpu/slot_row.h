// SlotRow: one slot of the table, with names for what the CPU backend reads and writes in place.
// A view for the rank's thread.
#pragma once

#include <cstdint>

#include "fathom/batch.h"

namespace fathom {

// Slot 0 is that of padding rows: read, never written.
class SlotRow {
 public:
  SlotRow(const SlotTable& table, SlotId slot) : table_(table), slot_(slot) {
    FATHOM_CHECK(slot >= 0 && slot < table.limits.slots, "a plan names a slot that does not exist");
  }

  int32_t* history() const {
    return table_.history.as<int32_t>() + slot_ * table_.history.stride[0];
  }
  int32_t& length() const { return table_.length.as<int32_t>()[slot_]; }
  int32_t& computed() const { return table_.computed.as<int32_t>()[slot_]; }
  int32_t& draft_count() const { return table_.draft_count.as<int32_t>()[slot_]; }
  int32_t* drafts() const {
    return table_.drafts.defined() ? table_.drafts.as<int32_t>() + slot_ * table_.drafts.stride[0]
                                   : nullptr;
  }
  FinishReason finished() const {
    return static_cast<FinishReason>(table_.finished.as<uint8_t>()[slot_]);
  }
  void finish(FinishReason reason) const {
    table_.finished.as<uint8_t>()[slot_] = static_cast<uint8_t>(reason);
  }
  SlotSampling& sampling() const {
    return *reinterpret_cast<SlotSampling*>(table_.sampling.as<std::byte>() +
                                            slot_ * table_.sampling.stride[0]);
  }
  int32_t* bias_ids() const {
    return table_.bias_ids.as<int32_t>() + slot_ * table_.bias_ids.stride[0];
  }
  float* bias_values() const {
    return table_.bias_values.as<float>() + slot_ * table_.bias_values.stride[0];
  }
  int32_t* blocks(int32_t group) const {
    return table_.block_table.as<int32_t>() + group * table_.block_table.stride[0] +
           slot_ * table_.block_table.stride[1];
  }

 private:
  const SlotTable& table_;
  SlotId slot_;
};

}  // namespace fathom
