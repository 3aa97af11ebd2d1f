// The chooser of the tall product's tiles: no GPU needed.
#include "ops/cuda/choose_tall.h"

#include <gtest/gtest.h>

namespace fathom {
namespace {

using kernels::TallPairing;
using kernels::TallPlan;

TallProblem problem(int64_t rows, int64_t out, int64_t in, bool gated = false) {
  TallProblem p;
  p.rows = rows;
  p.out = out;
  p.in = in;
  p.gated = gated;
  p.whole_blocks = true;
  return p;
}

TEST(ChooseTall, FitsAnSmsSharedMemoryAndTheKernel) {
  for (const bool gated : {false, true}) {
    for (const int64_t rows : {129, 200, 256, 300, 384, 500, 512}) {
      for (const int64_t out : {256, 2048, 4096, 6144, 28672}) {
        const auto plan = choose_tall(problem(rows, out, 4096, gated));
        if (!plan) continue;
        EXPECT_LE(kernels::tall_shared_bytes(*plan, plan->stages), kernels::kTallSharedMax);
        EXPECT_GE(plan->stages, 3);
        EXPECT_LE(plan->token_step, kernels::kTallTokens);
        EXPECT_EQ(plan->token_step % 16, 0);
        EXPECT_FALSE(gated && plan->pairing == TallPairing::kSplit);
        EXPECT_FALSE(gated && plan->columns == 128 && plan->pairing != TallPairing::kColumns);
      }
    }
  }
}

TEST(ChooseTall, TakesWhatWasMeasuredFastestForLlama) {
  using Kind = std::pair<int32_t, TallPairing>;
  const auto kind = [](const TallProblem& p) {
    const TallPlan plan = choose_tall(p).value();
    return Kind(plan.columns, plan.pairing);
  };
  EXPECT_EQ(kind(problem(128, 28672, 4096, true)), Kind(256, TallPairing::kAlone));
  EXPECT_EQ(kind(problem(256, 28672, 4096, true)), Kind(256, TallPairing::kTokens));
  EXPECT_EQ(kind(problem(384, 28672, 4096, true)), Kind(256, TallPairing::kAlone));
  EXPECT_EQ(kind(problem(256, 4096, 14336)), Kind(128, TallPairing::kSplit));
  EXPECT_EQ(kind(problem(384, 4096, 14336)), Kind(96, TallPairing::kAlone));
  EXPECT_EQ(kind(problem(256, 6144, 4096)), Kind(96, TallPairing::kTokens));
  EXPECT_EQ(kind(problem(256, 4096, 4096)), Kind(128, TallPairing::kSplit));
  EXPECT_FALSE(choose_tall(problem(512, 4096, 14336)));  // cuBLASLt's 48 us are less
}

TEST(ChooseTall, MakesHeadsReadyWhereThatWasMeasuredFaster) {
  const auto columns = [](const TallProblem& p) {
    const auto plan = choose_tall_heads(p);
    if (!plan) return 0;
    EXPECT_TRUE(plan->heads);
    EXPECT_NE(plan->pairing, TallPairing::kSplit);
    EXPECT_LE(kernels::tall_shared_bytes(*plan, plan->stages), kernels::kTallSharedMax);
    return plan->columns;
  };
  EXPECT_EQ(columns(problem(512, 6144, 4096)), 256);
  EXPECT_EQ(columns(problem(384, 6144, 4096)), 256);
  EXPECT_EQ(columns(problem(256, 6144, 4096)), 128);
  EXPECT_EQ(columns(problem(192, 6144, 4096)), 128);
  EXPECT_EQ(columns(problem(128, 6144, 4096)), 0);  // K in halves is faster
  EXPECT_EQ(columns(problem(513, 6144, 4096)), 0);
  EXPECT_EQ(columns(problem(512, 6144, 4096, true)), 0);
  TallProblem p = problem(512, 6144, 4096);
  p.deterministic = true;
  EXPECT_EQ(columns(p), 0);
}

TEST(ChooseTall, LeavesAloneWhatTheKernelCannotRun) {
  EXPECT_TRUE(choose_tall(problem(256, 4096, 4096)));
  EXPECT_FALSE(choose_tall(problem(64, 4096, 4096)));
  EXPECT_FALSE(choose_tall(problem(8192, 4096, 4096)));
  TallProblem p = problem(256, 4096, 4096);
  p.whole_blocks = false;
  EXPECT_FALSE(choose_tall(p));
  p = problem(256, 4096, 4096);
  p.aligned = false;
  EXPECT_FALSE(choose_tall(p));
  p = problem(256, 4096, 4096);
  p.deterministic = true;
  EXPECT_FALSE(choose_tall(p));
  p = problem(256, 4096, 4096);
  p.hopper = false;
  EXPECT_FALSE(choose_tall(p));
  EXPECT_FALSE(choose_tall(problem(256, 2048, 2048)));              // as fast elsewhere
  EXPECT_FALSE(choose_tall(problem(256, 4096 + 128, 4096, true)));  // a half group of the gate's
}

}  // namespace
}  // namespace fathom
