// Views of the step's tables as kernels take them.
#pragma once

#include "fathom/batch.h"
#include "kernels/steps.h"

namespace fathom {

kernels::SlotArrays slot_arrays(const SlotTable& slots);
kernels::BatchArrays batch_arrays(const BatchView& batch);
kernels::OutputArrays output_arrays(const SampleOutput& out);

}  // namespace fathom
