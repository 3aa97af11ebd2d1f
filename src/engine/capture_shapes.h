// The few shapes that decode and verify steps are run at by a backend that replays captured steps,
// and how a step is padded to one of them. Pure functions; every rank's StepProgram calls them.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/step_buffers.h"
#include "fathom/batch.h"

namespace fathom {

// The row count that a step of `rows` (1 to `rows_max`) runs at: the next power of two, or from 8
// on the half between two of them, `rows_max` at most: at most a third of a step's rows is padding.
int32_t row_bucket(int32_t rows, int32_t rows_max);
// All of them, ascending; the last is `rows_max`.
std::vector<int32_t> row_buckets(int32_t rows_max);

// The shape of `rows` decode or verify rows (a bucket's count), each with 1 + drafts_max tokens, as
// far as the limits go.
StepShape captured_shape(int32_t rows, const StepLimits& limits, const SlotLimits& slots);

// Tokens of a step with prefill rows come in multiples of this, as far as the limit goes: products
// of many FP8 rows want fours, and tiles like eights.
inline constexpr int32_t kTokenGroup = 8;

// The captured shape that holds `shape`, or `shape` with whole groups of tokens when it has prefill
// rows. Rows, tokens and sample rows past the plan's are padding: slot 0, not valid.
StepShape padded_shape(const StepShape& shape, const StepLimits& limits, const SlotLimits& slots);

// A step of padding alone that runs the kernels of prefill at `tokens` tokens: for loading them
// before ready.
StepShape prefill_warm_shape(int32_t tokens, const SlotLimits& slots);

}  // namespace fathom
