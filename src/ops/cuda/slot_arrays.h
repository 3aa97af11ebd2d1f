// Views of the step's tables as kernels take them.
#pragma once

#include "fathom/batch.h"
#include "fathom/ops.h"
#include "kernels/attention_batch.h"
#include "kernels/prefill_attention.h"
#include "kernels/steps.h"

namespace fathom {

kernels::SlotArrays slot_arrays(const SlotTable& slots);
kernels::BatchArrays batch_arrays(const BatchView& batch);
kernels::OutputArrays output_arrays(const SampleOutput& out);
// The step's tokens and the cache that they attend to.
kernels::AttentionBatch attention_batch(const BatchView& batch, const KvView& cache,
                                        const RopeTable& rope);
// Rows from first_row on, as prefill attention takes them.
kernels::PrefillRows prefill_rows(const BatchView& batch, const kernels::AttentionBatch& tokens,
                                  int32_t first_row);

}  // namespace fathom
