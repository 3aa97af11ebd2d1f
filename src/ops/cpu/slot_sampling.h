// A request's sampling parameters in the form that the slot table carries, on every backend.
#pragma once

#include "fathom/batch.h"
#include "fathom/plan.h"

namespace fathom {

SlotSampling slot_sampling(const OpenSlot& open, const SlotLimits& limits);

}  // namespace fathom
