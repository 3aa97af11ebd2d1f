// Which rows are worked on in vectors: no GPU needed.
#include "ops/cuda/choose_rows.h"

#include <gtest/gtest.h>

namespace fathom {
namespace {

alignas(16) unsigned char memory[4096];

TEST(ChooseRows, TakesRowsThatLieAtVectors) {
  const Tensor whole = Tensor::of(memory, DType::kBF16, {4, 64});
  EXPECT_TRUE(rows_in_vectors({&whole}));
  EXPECT_TRUE(rows_in_vectors({nullptr, &whole}));
  const Tensor part = whole.columns(8, 48);
  EXPECT_TRUE(rows_in_vectors({&whole, &part}));
}

TEST(ChooseRows, LeavesOthersToThePlainKernels) {
  const Tensor whole = Tensor::of(memory, DType::kBF16, {4, 64});
  const Tensor shifted = whole.columns(4, 48);
  EXPECT_FALSE(rows_in_vectors({&whole, &shifted})) << "8 bytes from a vector's place";
  const Tensor narrow = whole.columns(0, 44);
  EXPECT_FALSE(rows_in_vectors({&narrow})) << "half a vector at the end";
  const Tensor strided = Tensor::of(memory, DType::kBF16, {4, 60}).columns(0, 56);
  EXPECT_FALSE(rows_in_vectors({&strided})) << "the second row starts between vectors";
  const Tensor ints = Tensor::of(memory, DType::kI32, {4, 64});
  EXPECT_FALSE(rows_in_vectors({&ints}));
}

TEST(ChooseRows, QuantizesGroupsThatStartAtColumnZero) {
  EXPECT_TRUE(groups_in_vectors({ActFormat::kFp8Block, true, 0}));
  EXPECT_FALSE(groups_in_vectors({ActFormat::kFp8Block, true, 96}));
  EXPECT_TRUE(groups_in_vectors({ActFormat::kBF16, false, 96}));
}

}  // namespace
}  // namespace fathom
