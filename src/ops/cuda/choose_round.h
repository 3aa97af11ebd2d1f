// How many rows a product's blocks have done when all of them are done at once: a pure function,
// tested without a GPU.
#pragma once

#include <cstdint>

namespace fathom {

// Rows whose tiles fill one round of the blocks that multiply many rows (kernels/many_plan.h), in a
// product of `out` columns, as far as whole tiles do. A row more begins another round.
int64_t rows_of_round(int64_t out, int32_t sms);

}  // namespace fathom
