// Rounds of the product of many rows, whose blocks work in twos.
#include "ops/cuda/choose_round.h"

#include <algorithm>

#include "kernels/many_plan.h"

namespace fathom {

int64_t rows_of_round(int64_t out, int32_t sms) {
  const int64_t tiles = (out + kernels::kManyTileColumns - 1) / kernels::kManyTileColumns;
  return 2 * kernels::kManyTileRows * std::max<int64_t>(sms / 2 / tiles, 1);
}

}  // namespace fathom
