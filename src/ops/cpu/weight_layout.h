// How weights of a checkpoint lie in a backend's memory: what both backends' prepare_linear share.
// Pure; any thread.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "fathom/weight.h"

namespace fathom {

// The format of a checkpoint's matrix; INVALID_ARGUMENT or UNIMPLEMENTED for what has none here.
Result<WeightFormat> weight_format(const HostWeight& part);
// Whether `part` may lie below `first`, and its scales cover it.
Status check_weight_part(const HostWeight& part, const HostWeight& first);

// A layer made of `parts` below each other: its format and shapes, without data.
Result<Weight> weight_layout(const std::vector<HostWeight>& parts);
// Fills scales and scale_rows of `to`, which has memory for them.
void copy_scales(const std::vector<HostWeight>& parts, const Weight& to);
// DATA_LOSS when one of these e4m3 codes is NaN.
Status check_fp8(std::span<const uint8_t> codes);

// The row of `part`'s scales that its row `row` uses.
int64_t scale_row_of(const HostWeight& part, int64_t row);

float weight_value(const Tensor& t, int64_t i);
// Elements [at, at + n) of `from` to elements from `to_at` on of `to`, which is f32, bf16 or of the
// same dtype.
void convert_values(const Tensor& from, int64_t at, int64_t n, DType as, void* to, int64_t to_at);

}  // namespace fathom
