// The chooser of the kernel for many rows: no GPU needed.
#include "ops/cuda/choose_many.h"

#include <gtest/gtest.h>

#include <vector>

#include "kernels/many_plan.h"

namespace fathom {
namespace {

ManyProblem gate_up(int64_t rows) {
  ManyProblem p;
  p.rows = rows;
  p.out = 28672;
  p.in = 4096;
  p.weight = WeightFormat::kFp8Block;
  p.act = ActFormat::kFp8Block;
  p.gated = true;
  p.whole_blocks = true;
  return p;
}

TEST(ChooseMany, TakesPromptsAndTheLargeProductsOfDecodeSteps) {
  for (const int64_t rows : {448, 512, 1024, 2048, 8192})
    EXPECT_TRUE(choose_many(gate_up(rows))) << rows;
  for (const int64_t rows : {1, 64, 128, 200, 256, 384})
    EXPECT_FALSE(choose_many(gate_up(rows))) << rows;
  ManyProblem p = gate_up(256);
  p.out = 36864;  // of V3
  p.in = 7168;
  EXPECT_TRUE(choose_many(p));
  p = gate_up(512);
  p.gated = false;
  p.out = 4096;  // 49 us by cuBLASLt
  p.in = 14336;
  EXPECT_FALSE(choose_many(p));
}

TEST(ChooseMany, LeavesProductsThatEndInAHalfEmptyRound) {
  ManyProblem p = gate_up(2048);
  p.gated = false;
  p.out = 6144;  // 8 x 24 items on 66 twos of blocks
  EXPECT_TRUE(choose_many(p));
  p.rows = 1024;  // 96 items
  EXPECT_FALSE(choose_many(p));
  p.out = 4096;  // 64 items
  EXPECT_TRUE(choose_many(p));
  EXPECT_FALSE(choose_many(gate_up(520))) << "of the last tiles most rows are not there";
}

TEST(ChooseMany, RefusesWhatTheKernelCannotRead) {
  ManyProblem p = gate_up(2048);
  p.weight = WeightFormat::kBF16;
  p.act = ActFormat::kBF16;
  EXPECT_FALSE(choose_many(p));
  p = gate_up(2048);
  p.act = ActFormat::kF32;  // reference numerics
  EXPECT_FALSE(choose_many(p));
  p = gate_up(2048);
  p.whole_blocks = false;
  EXPECT_FALSE(choose_many(p));
  p = gate_up(2048);
  p.aligned = false;
  EXPECT_FALSE(choose_many(p));
  p = gate_up(2048);
  p.hopper = false;
  EXPECT_FALSE(choose_many(p));
  p = gate_up(2048);
  p.out = 21888;  // 10,944 rows each: the up matrix begins inside a tile
  EXPECT_FALSE(choose_many(p));
  p = gate_up(2048);
  p.in = 4096 + 128;  // scales that do not come in fours
  EXPECT_FALSE(choose_many(p));
}

TEST(ChooseMany, StaysOutOfDeterministicSteps) {
  ManyProblem p = gate_up(8192);
  p.deterministic = true;
  EXPECT_FALSE(choose_many(p));
}

TEST(ManyPlan, FitsWholeTiles) {
  EXPECT_TRUE(kernels::many_gemm_fits(6144, 4096, false));
  EXPECT_TRUE(kernels::many_gemm_fits(384, 512, false));
  EXPECT_FALSE(kernels::many_gemm_fits(384, 512, true));
  EXPECT_FALSE(kernels::many_gemm_fits(100, 512, false));
  EXPECT_FALSE(kernels::many_gemm_fits(256, 0, false));
}

// Every turn of every item is done once, sums are handed over once, and helpers give theirs first.
TEST(ManyPlan, SharesEveryItemOutOnce) {
  using kernels::ManyPart;
  using kernels::ManyRole;
  for (const int32_t twos : {7, 57, 66}) {
    for (int32_t items = 1; items < 4 * twos; ++items) {
      for (const int32_t turns : {1, 2, 4, 8, 28}) {
        const kernels::ManySplit split = kernels::many_split(items, twos, turns);
        ASSERT_LE(split.tail, kernels::many_tail_max(twos));
        std::vector<int32_t> done(static_cast<size_t>(items), 0);
        std::vector<int32_t> given(static_cast<size_t>(split.tail), -1);
        std::vector<int32_t> taken(static_cast<size_t>(split.tail), -1);
        for (int32_t two = 0; two < twos; ++two) {
          bool whole_before = false;
          for (int32_t n = 0;; ++n) {
            const ManyPart part = kernels::many_part(split, two, twos, turns, n);
            if (!part.there) break;
            ASSERT_LT(part.item, items);
            ASSERT_LT(part.begin, part.end);
            done[static_cast<size_t>(part.item)] += part.end - part.begin;
            if (part.role == ManyRole::kHelped) {
              EXPECT_FALSE(whole_before);
              given[static_cast<size_t>(part.shared)] = part.end;
            }
            if (part.role == ManyRole::kLast) taken[static_cast<size_t>(part.shared)] = part.begin;
            whole_before = whole_before || part.role != ManyRole::kHelped;
          }
        }
        for (const int32_t count : done) ASSERT_EQ(count, turns) << items << " of " << twos;
        for (size_t i = 0; i < given.size(); ++i) {
          ASSERT_GT(given[i], 0);
          ASSERT_EQ(given[i], taken[i]);
        }
      }
    }
  }
}

TEST(ManyPlan, SharesWhereARoundIsSaved) {
  const kernels::ManySplit gate = kernels::many_split(224, 66, 8);  // 512 rows of Llama-8B
  EXPECT_EQ(gate.tail, 26);
  EXPECT_EQ(gate.turns, 4);
  const kernels::ManySplit words = kernels::many_split(501, 66, 16);  // a vocabulary, 256 rows
  EXPECT_EQ(words.helped, 2);
  EXPECT_EQ(words.turns, 5);
  EXPECT_EQ(kernels::many_split(112, 66, 8).tail, 0) << "handing over takes what it saves";
  EXPECT_EQ(kernels::many_split(66, 66, 8).tail, 0);
  EXPECT_EQ(kernels::many_split(130, 66, 8).tail, 0) << "two helpers for 64 items";
  EXPECT_EQ(kernels::many_split(20, 66, 2).tail, 0);
}

TEST(ChooseMany, TakesAVocabularyInBf16) {
  ManyProblem p;
  p.rows = 512;
  p.out = 128256;
  p.in = 4096;
  p.weight = WeightFormat::kBF16;
  p.act = ActFormat::kBF16;
  p.float_out = true;
  EXPECT_TRUE(choose_many(p));
  for (const int64_t rows : {128, 200, 384, 1024}) {
    p.rows = rows;
    EXPECT_FALSE(choose_many(p)) << rows;
  }
  p.rows = 512;
  p.out = 151936;  // Qwen's: 593 tiles and a half
  EXPECT_FALSE(choose_many(p));
  p.out = 128256;
  p.float_out = false;
  EXPECT_FALSE(choose_many(p));
  p.float_out = true;
  p.in = 4096 + 64;
  EXPECT_FALSE(choose_many(p));
  p.in = 4096;
  p.deterministic = true;
  EXPECT_FALSE(choose_many(p));
}

}  // namespace
}  // namespace fathom
