// Reads a finished step's output into the values that the scheduler commits. A pure function over
// host-readable memory.
#pragma once

#include <vector>

#include "engine/step_shape.h"
#include "fathom/batch.h"
#include "fathom/plan.h"

namespace fathom {

// `out` is complete (Ops::synchronize) and cut to the step that `reading` describes.
std::vector<RowResult> read_results(const StepReading& reading, const SampleOutput& out);

}  // namespace fathom
