// Between the launches that make a grouped product's lists.
#pragma once

#include "grouped_gemm.h"

namespace fathom::kernels {

// The order, after counts and tiles.
cudaError_t grouped_places(cudaStream_t stream, const GroupedRouting& r,
                           const GroupedSchedule& schedule);

}  // namespace fathom::kernels
