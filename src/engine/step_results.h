// Reads a finished step's output into the values that the scheduler commits. A pure function over
// host-readable memory.
#pragma once

#include <span>
#include <vector>

#include "engine/step_shape.h"
#include "fathom/batch.h"
#include "fathom/plan.h"

namespace fathom {

// `out` is complete (Ops::synchronize) and cut to the step that `readings` describes.
std::vector<RowResult> read_results(std::span<const RowReading> readings, const SampleOutput& out);

}  // namespace fathom
