// The chooser of linear layers' kernels: no GPU needed.
#include "ops/cuda/choose_gemm.h"

#include <gtest/gtest.h>

namespace fathom {
namespace {

GemmProblem fp8(int64_t rows, int64_t out, int64_t in) {
  GemmProblem p;
  p.rows = rows;
  p.out = out;
  p.in = in;
  p.weight = WeightFormat::kFp8Block;
  p.act = ActFormat::kFp8Block;
  return p;
}

GemmProblem bf16(int64_t rows, int64_t out, int64_t in) {
  GemmProblem p;
  p.rows = rows;
  p.out = out;
  p.in = in;
  return p;
}

TEST(ChooseGemm, TakesThePlainKernelWhereTheFastOneCannotRun) {
  EXPECT_EQ(choose_gemm(fp8(4, 512, 512)).kernel, GemmKernel::kSkinny);
  EXPECT_EQ(choose_gemm(bf16(4, 512, 512)).kernel, GemmKernel::kSkinny);
  GemmProblem p = fp8(4, 512, 512);
  p.first_column_in_block = 32;
  EXPECT_EQ(choose_gemm(p).kernel, GemmKernel::kPlain);
  p = bf16(4, 512, 512);
  p.aligned = false;
  EXPECT_EQ(choose_gemm(p).kernel, GemmKernel::kPlain);
  p = fp8(4, 512, 512);
  p.act = ActFormat::kF32;  // reference numerics
  EXPECT_EQ(choose_gemm(p).kernel, GemmKernel::kPlain);
  p = bf16(4, 512, 512);
  p.weight = WeightFormat::kF32;
  EXPECT_EQ(choose_gemm(p).kernel, GemmKernel::kPlain);
  EXPECT_EQ(choose_gemm(bf16(0, 512, 512)).kernel, GemmKernel::kPlain);
}

TEST(ChooseGemm, RoundsRowsUpToATokenTile) {
  const std::pair<int64_t, int32_t> tiles[] = {{1, 8},   {8, 8},   {9, 16},  {16, 16}, {17, 32},
                                               {32, 32}, {33, 64}, {64, 64}, {65, 64}, {4096, 64}};
  for (const auto& [rows, tile] : tiles) {
    EXPECT_EQ(choose_gemm(fp8(rows, 4096, 4096)).skinny.token_tile, tile) << rows;
  }
}

TEST(ChooseGemm, SplitsByTheMatrixAloneSoThatARowKeepsItsOrderOfSums) {
  for (const int64_t out : {8, 256, 576, 2112, 4096, 7168, 28672, 129280}) {
    for (const int64_t in : {128, 256, 2048, 7168, 16384}) {
      const int32_t split = choose_gemm(fp8(1, out, in)).skinny.split;
      for (const int64_t rows : {2, 8, 9, 31, 64, 1000}) {
        EXPECT_EQ(choose_gemm(fp8(rows, out, in)).skinny.split, split) << out << " " << in;
      }
    }
  }
}

TEST(ChooseGemm, GivesEverySmABlockWhereKIsLongEnough) {
  EXPECT_EQ(choose_gemm(fp8(1, 7168, 16384)).skinny.split, 4);  // 224 blocks; 112 left SMs idle
  EXPECT_EQ(choose_gemm(fp8(1, 2112, 7168)).skinny.split, 8);
  EXPECT_EQ(choose_gemm(fp8(1, 4096, 4096)).skinny.split, 4);
  EXPECT_EQ(choose_gemm(bf16(1, 4096, 4096)).skinny.split, 4);
  EXPECT_EQ(choose_gemm(bf16(1, 28672, 4096)).skinny.split, 1);
  EXPECT_EQ(choose_gemm(fp8(1, 256, 256)).skinny.split, 1);   // two steps: nothing to share
  EXPECT_EQ(choose_gemm(fp8(1, 256, 1024)).skinny.split, 2);  // four steps each
}

TEST(ChooseGemm, FillsHalfAnSmsSharedMemory) {
  for (const int64_t rows : {1, 16, 32, 64}) {
    for (const int64_t out : {2112, 28672}) {
      const kernels::SkinnyPlan plan = choose_gemm(fp8(rows, out, 7168)).skinny;
      EXPECT_GE(plan.stages, 3);
      EXPECT_LE(kernels::skinny_shared_bytes(plan.token_tile, plan.split, plan.stages),
                kernels::kSkinnySharedMax);
      EXPECT_GT(kernels::skinny_shared_bytes(plan.token_tile, plan.split, plan.stages + 1),
                kernels::kSkinnySharedMax);
    }
  }
}

}  // namespace
}  // namespace fathom
