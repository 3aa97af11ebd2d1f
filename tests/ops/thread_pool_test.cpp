// The CPU backend's threads: every piece once, by a worker that exists, all done at the end.
#include "ops/cpu/thread_pool.h"

#include <gtest/gtest.h>

#include <vector>

namespace fathom {
namespace {

TEST(ThreadPool, EveryPieceIsDoneOnceBeforeShareReturns) {
  for (const int32_t threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    for (int round = 0; round < 2000; ++round) {
      const int64_t pieces = round % 23;
      std::vector<int> done(pieces, 0);
      std::vector<int32_t> by(pieces, -1);
      pool.share(pieces, [&](int64_t piece, int32_t worker) {
        ++done[piece];
        by[piece] = worker;
      });
      for (int64_t i = 0; i < pieces; ++i) {
        ASSERT_EQ(done[i], 1) << "piece " << i << " of " << pieces << ", " << threads;
        ASSERT_TRUE(by[i] >= 0 && by[i] < threads);
      }
    }
  }
}

TEST(ThreadPool, SplitCoversTheCountInWholeUnits) {
  for (const int32_t threads : {1, 3}) {
    ThreadPool pool(threads);
    for (const int64_t count : {1, 7, 8, 9, 100, 832}) {
      for (const int64_t cost : {int64_t{0}, ThreadPool::kCostMin}) {
        std::vector<int> seen(count, 0);
        pool.split(count, 8, cost, [&](int64_t begin, int64_t end, int32_t) {
          EXPECT_EQ(begin % 8, 0);
          for (int64_t i = begin; i < end; ++i) ++seen[i];
        });
        EXPECT_EQ(seen, std::vector<int>(count, 1)) << count << " among " << threads;
      }
    }
  }
}

}  // namespace
}  // namespace fathom
