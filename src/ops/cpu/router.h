// Expert choice of one token (models.md 2.5). Pure.
#pragma once

#include <cstdint>

#include "fathom/ops.h"

namespace fathom {

// Floats of scratch that `route` needs.
int64_t route_scratch_floats(const MoeParams& params);

// Chooses params.experts_per_token experts for one token from its router products `logits`
// (float32 [experts], overwritten with scores) and writes their ids, best first, and their weights.
// Equal scores: the lowest id wins. Groups that were not chosen count as minus infinity.
void route(const MoeParams& params, float* logits, float* scratch, int32_t* ids, float* weights);

}  // namespace fathom
