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
  const std::pair<int64_t, int32_t> tiles[] = {{1, 8},    {8, 8},     {9, 16},  {16, 16},
                                               {17, 32},  {32, 32},   {33, 64}, {64, 64},
                                               {65, 128}, {4096, 128}};
  for (const auto& [rows, tile] : tiles) {
    EXPECT_EQ(choose_gemm(fp8(rows, 4096, 4096)).skinny.token_tile, tile) << rows;
  }
}

TEST(ChooseGemm, SplitsByTheMatrixAloneSoThatARowKeepsItsOrderOfSums) {
  for (const int64_t out : {8, 256, 576, 2112, 4096, 7168, 28672, 129280}) {
    for (const int64_t in : {128, 256, 2048, 7168, 16384}) {
      const kernels::SkinnyPlan one = choose_gemm(fp8(1, out, in)).skinny;
      for (const int64_t rows : {2, 8, 9, 31, 64, 1000}) {
        const kernels::SkinnyPlan plan = choose_gemm(fp8(rows, out, in)).skinny;
        EXPECT_EQ(plan.split, one.split) << out << " " << in;
      }
    }
  }
}

TEST(ChooseGemm, GivesEverySmABlockWhereKIsLongEnough) {
  const auto shape = [](const GemmProblem& p) {
    const kernels::SkinnyPlan plan = choose_gemm(p).skinny;
    return std::pair(plan.tile_rows, plan.split);
  };
  using Shape = std::pair<int32_t, int32_t>;
  EXPECT_EQ(shape(fp8(1, 7168, 16384)), Shape(128, 4));  // 224 blocks; 112 left SMs idle
  EXPECT_EQ(shape(fp8(1, 2112, 7168)), Shape(128, 8));
  EXPECT_EQ(shape(fp8(1, 4096, 4096)), Shape(64, 2));  // 128 blocks of 16 steps
  EXPECT_EQ(shape(bf16(1, 4096, 4096)), Shape(64, 2));
  EXPECT_EQ(shape(bf16(1, 4096, 14336)), Shape(128, 4));  // 56 steps
  EXPECT_EQ(shape(bf16(1, 4080, 4096)), Shape(128, 4));   // no whole tiles of 64
  EXPECT_EQ(shape(bf16(1, 28672, 4096)), Shape(128, 1));
  EXPECT_EQ(shape(fp8(1, 256, 256)), Shape(128, 1));   // two steps: nothing to share
  EXPECT_EQ(shape(fp8(1, 256, 1024)), Shape(128, 2));  // four steps each
}

TEST(ChooseGemm, HoldsTheNextKernelBackWhereItsWeightsWouldOvertake) {
  EXPECT_TRUE(choose_gemm(fp8(32, 4096, 4096)).skinny.overlap_next);
  EXPECT_FALSE(choose_gemm(fp8(64, 4096, 4096)).skinny.overlap_next);
  EXPECT_FALSE(choose_gemm(fp8(64, 7168, 16384)).skinny.overlap_next);
  EXPECT_TRUE(choose_gemm(bf16(64, 4096, 4096)).skinny.overlap_next);
  EXPECT_FALSE(choose_gemm(bf16(64, 28672, 4096)).skinny.overlap_next);
}

TEST(ChooseGemm, FillsHalfAnSmsSharedMemory) {
  for (const int64_t rows : {1, 16, 32, 64}) {
    for (const int64_t out : {2112, 28672}) {
      const kernels::SkinnyPlan plan = choose_gemm(fp8(rows, out, 7168)).skinny;
      EXPECT_GE(plan.stages, 3);
      EXPECT_LE(kernels::skinny_shared_bytes(plan, plan.stages), kernels::kSkinnySharedMax);
      EXPECT_GT(kernels::skinny_shared_bytes(plan, plan.stages + 1), kernels::kSkinnySharedMax);
    }
  }
}

TEST(ChooseGemm, LeavesManyRowsToTheKernelThatIsFastest) {
  const auto kernel = [](GemmProblem p) {
    p.library = true;
    return choose_gemm(p).kernel;
  };
  EXPECT_EQ(kernel(fp8(64, 7168, 16384)), GemmKernel::kSkinny);
  EXPECT_EQ(kernel(fp8(128, 7168, 16384)), GemmKernel::kWide);
  EXPECT_EQ(kernel(fp8(256, 7168, 16384)), GemmKernel::kLibrary);
  EXPECT_EQ(kernel(fp8(128, 4096, 4096)), GemmKernel::kSkinny);  // one pass of 128 rows
  EXPECT_EQ(kernel(fp8(128, 3072, 2048)), GemmKernel::kSkinny);
  EXPECT_EQ(kernel(fp8(128, 6144, 4096)), GemmKernel::kSkinny);
  EXPECT_EQ(kernel(fp8(256, 3072, 2048)), GemmKernel::kSkinny);  // two of them beside each other
  EXPECT_EQ(kernel(fp8(256, 2048, 2048)), GemmKernel::kSkinny);
  EXPECT_EQ(kernel(fp8(256, 576, 2048)), GemmKernel::kSkinny);
  EXPECT_EQ(kernel(fp8(256, 6144, 4096)), GemmKernel::kLibrary);
  EXPECT_EQ(kernel(fp8(128, 28672, 4096)), GemmKernel::kWide);
  EXPECT_EQ(kernel(fp8(128, 4096, 14336)), GemmKernel::kWide);
  EXPECT_EQ(kernel(fp8(512, 4096, 4096)), GemmKernel::kLibrary);
  EXPECT_EQ(kernel(fp8(128, 576, 7168)), GemmKernel::kSkinny);  // 5 tiles: few SMs
  EXPECT_EQ(kernel(bf16(64, 28672, 4096)), GemmKernel::kSkinny);
  EXPECT_EQ(kernel(bf16(65, 28672, 4096)), GemmKernel::kWide);
  EXPECT_EQ(kernel(bf16(128, 4096, 4096)), GemmKernel::kWide);
  EXPECT_EQ(kernel(bf16(128, 102400, 2048)), GemmKernel::kLibrary);  // a vocabulary
  EXPECT_EQ(kernel(bf16(128, 128256, 4096)), GemmKernel::kLibrary);
  EXPECT_EQ(kernel(bf16(256, 4096, 4096)), GemmKernel::kLibrary);
  EXPECT_EQ(kernel(bf16(256, 28672, 4096)), GemmKernel::kLibrary);
  EXPECT_EQ(choose_gemm(fp8(4096, 4096, 4096)).kernel, GemmKernel::kSkinny) << "no library";
}

TEST(ChooseGemm, KeepsDeterministicRowsOnOneKernel) {
  for (const int64_t rows : {1, 64, 65, 128, 256}) {
    GemmProblem p = fp8(rows, 28672, 4096);
    p.deterministic = true;
    EXPECT_EQ(choose_gemm(p).kernel, GemmKernel::kSkinny) << rows;
  }
}

TEST(ChooseGemm, PutsTilesOfManyRowsBesideEachOtherWhereTheyStartAtOnce) {
  const auto tiles = [](const GemmProblem& p) { return choose_gemm(p).skinny.token_blocks; };
  EXPECT_EQ(tiles(fp8(128, 2048, 2048)), 1);
  EXPECT_EQ(tiles(fp8(129, 2048, 2048)), 2);
  EXPECT_EQ(tiles(fp8(1000, 2048, 2048)), 2);
  EXPECT_EQ(tiles(fp8(256, 6144, 4096)), 1);  // 192 blocks, and 264 start at once
  EXPECT_EQ(tiles(fp8(64, 2048, 2048)), 1);
}

TEST(ChooseGemm, GivesTheLibraryFoursOfFp8Rows) {
  GemmProblem p = fp8(515, 4096, 4096);
  p.library = true;
  EXPECT_EQ(choose_gemm(p).library_rows, 512);
  p = bf16(515, 4096, 4096);
  p.library = true;
  EXPECT_EQ(choose_gemm(p).library_rows, 515);
  p.library = true;
  p.aligned = false;
  EXPECT_EQ(choose_gemm(p).kernel, GemmKernel::kPlain);
}

TEST(ChooseGemm, FindsTheLeastBucketThatHoldsTheRows) {
  EXPECT_EQ(library_bucket(65), 0);
  EXPECT_EQ(library_bucket(128), 0);
  EXPECT_EQ(library_bucket(129), 1);
  EXPECT_EQ(library_bucket(8192), kLibraryBuckets - 1);
  EXPECT_EQ(library_bucket(100000), kLibraryBuckets - 1);
}

std::vector<int64_t> first_rows(const std::vector<int32_t>& scale_rows) {
  std::vector<int64_t> firsts;
  for (const ScaleSegment& s :
       scale_segments(scale_rows.data(), static_cast<int64_t>(scale_rows.size()))) {
    firsts.push_back(s.first_row);
  }
  return firsts;
}

// Scale rows of `rows` rows that begin `offset` rows inside their first block, row `first`.
void append(std::vector<int32_t>& to, int rows, int offset, int first) {
  for (int i = 0; i < rows; ++i) to.push_back(first + (offset + i) / 128);
}

TEST(ChooseGemm, DeterministicRowsNeverGoToTheLibrary) {
  for (const int64_t rows : {65, 128, 512, 8192}) {
    GemmProblem p = bf16(rows, 4096, 4096);
    p.library = p.deterministic = true;
    const GemmChoice choice = choose_gemm(p);
    EXPECT_EQ(choice.kernel, GemmKernel::kSkinny) << rows;
    EXPECT_EQ(choice.library_rows, 0) << rows;
    EXPECT_EQ(choice.skinny.split, choose_gemm(bf16(1, 4096, 4096)).skinny.split) << rows;
  }
}

TEST(ChooseGemm, WithoutHopperTheLibraryHasWhatItKnows) {
  GemmProblem p = bf16(4, 512, 512);
  p.hopper = false;
  EXPECT_EQ(choose_gemm(p).kernel, GemmKernel::kPlain);
  p.library = true;
  EXPECT_EQ(choose_gemm(p).kernel, GemmKernel::kLibrary);
  EXPECT_EQ(choose_gemm(p).library_rows, 4);
  p = fp8(4096, 512, 512);
  p.hopper = false;
  p.library = true;
  EXPECT_EQ(choose_gemm(p).kernel, GemmKernel::kPlain);
}

TEST(ChooseGemm, CutsAWeightWhereItsScalesDoNotFollow) {
  std::vector<int32_t> rows;
  append(rows, 300, 0, 0);
  EXPECT_EQ(first_rows(rows), std::vector<int64_t>({0}));
  append(rows, 136, 0, 3);  // a part that begins inside the last block of the first
  EXPECT_EQ(first_rows(rows), std::vector<int64_t>({0, 300}));
  rows.clear();
  append(rows, 200, 32, 5);  // a shard that begins inside a block
  EXPECT_EQ(first_rows(rows), std::vector<int64_t>({0, 96}));
  EXPECT_EQ(scale_segments(rows.data(), 200)[1].scale_row, 6);
  EXPECT_EQ(scale_segments(rows.data(), 200)[1].rows, 104);
}

}  // namespace
}  // namespace fathom
