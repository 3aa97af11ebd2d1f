// How many rows fill a round of tiles: no GPU needed.
#include "ops/cuda/choose_round.h"

#include <gtest/gtest.h>

namespace fathom {
namespace {

TEST(ChooseRound, SaysHowManyRowsFillARound) {
  EXPECT_EQ(rows_of_round(4096, 132), 1024) << "16 tiles for each 256 rows, on 66 twos of blocks";
  EXPECT_EQ(rows_of_round(3584, 132), 1024);
  EXPECT_EQ(rows_of_round(7168, 132), 512);
  EXPECT_EQ(rows_of_round(28672, 132), 256) << "more than a round";
}

}  // namespace
}  // namespace fathom
