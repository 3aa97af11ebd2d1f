// The fixed memory of a rank's steps: slot table, batch arrays and sampling output, taken through
// Ops::reserve at load and never moved. Owned by a StepProgram.
#pragma once

#include <cstdint>

#include "fathom/batch.h"
#include "fathom/ops.h"
#include "fathom/status.h"

namespace fathom {

// Largest step that is ever planned.
struct StepLimits {
  int32_t rows_max = 0;
  int32_t tokens_max = 0;
  int32_t sample_rows_max = 0;
};

Result<SlotTable> make_slot_table(Ops& ops, const SlotLimits& limits);

// One step's arrays at their largest size; a step uses a front part of each.
class BatchArrays {
 public:
  static Result<BatchArrays> make(Ops& ops, const StepLimits& limits);

  // The arrays cut to `shape`, which must fit the limits.
  BatchView view(const StepShape& shape, const SlotTable& slots) const;

 private:
  StepLimits limits_;
  BatchView whole_;
};

// Sampling's output at its largest size. What other pipeline stages apply lies in one stretch of
// memory, so that one send carries it.
class OutputArrays {
 public:
  static Result<OutputArrays> make(Ops& ops, const StepLimits& limits, int32_t drafts_max);

  // The output cut to `shape`.
  SampleOutput view(const StepShape& shape) const;
  // i32, everything but the logprobs, at its largest size.
  const Tensor& applied() const { return applied_; }

 private:
  Tensor applied_;
  SampleOutput whole_;
};

}  // namespace fathom
