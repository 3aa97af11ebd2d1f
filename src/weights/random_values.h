// Pseudo-random tensor values as a function of (key, element): any slice, on any thread, gives the
// same values. Uniform in [center - spread, center + spread). Pure.
#pragma once

#include <cstdint>
#include <string_view>

#include "fathom/tensor.h"

namespace fathom {

struct ValueRecipe {
  DType dtype = DType::kBF16;  // F32, BF16, F8_E4M3
  uint64_t key = 0;
  float center = 0.0F;
  float spread = 1.0F;
  bool powers_of_two = false;  // F32 only: two powers of two around `center`
};

// Differs for every seed and every name.
uint64_t value_key(uint64_t seed, std::string_view name);

// Elements [first, first + count) to `out`.
void fill_values(const ValueRecipe& recipe, int64_t first, int64_t count, void* out);

}  // namespace fathom
