// The products on the widest registers that this processor has (512 bits with AVX-512) against
// those on 256-bit ones, bit for bit: whichever a machine has, an answer is the same. Without
// AVX-512 there is one kind, and it is run twice.
#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <vector>

#include "base/float_formats.h"
#include "ops/cpu/matmul.h"

namespace fathom {
namespace {

constexpr int64_t kRowCounts[] = {1, 2, 3, 4, 5, 6, 7, 8, 13, 16};
constexpr int64_t kColumns[] = {1, 7, 8, 20, 128, 250, 392};

class Values {
 public:
  std::vector<float> floats(int64_t n) {
    std::vector<float> x(n);
    for (float& v : x) v = normal_(random_);
    return x;
  }
  std::vector<uint16_t> bf16(int64_t n) {
    std::vector<uint16_t> x(n);
    for (uint16_t& v : x) v = float_to_bf16(normal_(random_));
    return x;
  }
  // Every code but NaN, zeroes and subnormals among them.
  std::vector<uint8_t> codes(int64_t n) {
    std::vector<uint8_t> x(n);
    for (uint8_t& v : x) {
      do v = static_cast<uint8_t>(random_());
      while ((v & 0x7F) == 0x7F);
    }
    return x;
  }

 private:
  std::mt19937 random_{2026};
  std::normal_distribution<float> normal_;
};

// The outputs of both kinds of instructions, from the same start.
struct Both {
  std::vector<float> narrow;
  std::vector<float> wide;

  bool equal() const {
    return std::memcmp(narrow.data(), wide.data(), narrow.size() * sizeof(float)) == 0;
  }
};

template <typename Call>
Both on_both(const std::vector<float>& start, const Call& call) {
  Both both{start, start};
  call(Products(Instructions::kAvx2), both.narrow.data());
  call(Products(widest_instructions()), both.wide.data());
  return both;
}

class ProductsTest : public ::testing::Test {
 protected:
  Both matmul(const Weight& weight, const Rows& x) {
    return on_both(std::vector<float>(x.count * weight.out(), -1.0F),
                   [&](const Products& products, float* out) {
                     std::vector<float> scratch(products.scratch_floats(weight, pool_.size()));
                     products.matmul(x, weight, out, weight.out(), pool_, scratch.data());
                   });
  }

  Values values_;
  ThreadPool pool_{1};
};

TEST_F(ProductsTest, ScaledWeightsAtEveryOffsetOfTheirBlocks) {
  for (const int64_t columns : kColumns) {
    for (const int32_t offset : {0, 32, 61}) {
      const int64_t outputs = 21;
      std::vector<uint8_t> codes = values_.codes(outputs * columns);
      const int64_t blocks = (offset + columns + 127) / 128;
      std::vector<float> scales = values_.floats(3 * blocks);
      std::vector<int32_t> scale_rows(outputs);
      for (int64_t o = 0; o < outputs; ++o) scale_rows[o] = static_cast<int32_t>(o / 9);
      Weight weight;
      weight.format = WeightFormat::kFp8Block;
      weight.values = Tensor::of(codes.data(), DType::kF8E4M3, {outputs, columns});
      weight.scales = Tensor::of(scales.data(), DType::kF32, {3, blocks});
      weight.scale_rows = Tensor::of(scale_rows.data(), DType::kI32, {outputs});
      weight.first_column_in_block = offset;
      for (const int64_t count : kRowCounts) {
        const std::vector<float> x = values_.floats(count * columns);
        const std::vector<float> row_scales = values_.floats(count * blocks);
        Rows rows{x.data(), columns, count, columns};
        EXPECT_TRUE(matmul(weight, rows).equal()) << columns << " columns, " << count << " rows";
        rows.scales = row_scales.data();
        rows.scale_stride = blocks;
        EXPECT_TRUE(matmul(weight, rows).equal()) << columns << " columns, " << count << " rows";
      }
    }
  }
}

TEST_F(ProductsTest, DenseWeightsAndChosenRows) {
  for (const int64_t columns : kColumns) {
    const int64_t outputs = 21;
    std::vector<uint16_t> halves = values_.bf16(outputs * columns);
    std::vector<float> floats = values_.floats(outputs * columns);
    Weight narrow;
    narrow.values = Tensor::of(halves.data(), DType::kBF16, {outputs, columns});
    Weight full;
    full.format = WeightFormat::kF32;
    full.values = Tensor::of(floats.data(), DType::kF32, {outputs, columns});
    const std::vector<float> x = values_.floats(20 * columns);
    const std::vector<int32_t> index = {19, 3, 4, 4, 0, 11, 7, 18, 2, 1, 5, 6, 9, 8, 10, 12};
    for (const int64_t count : kRowCounts) {
      Rows rows{x.data(), columns, count, columns};
      rows.index = index.data();
      EXPECT_TRUE(matmul(narrow, rows).equal()) << columns << " columns, " << count << " rows";
      EXPECT_TRUE(matmul(full, rows).equal()) << columns << " columns, " << count << " rows";
    }
  }
}

TEST_F(ProductsTest, MatricesAsTheyLie) {
  for (const int64_t columns : kColumns) {
    for (const int64_t keys : {1, 3, 8, 17, 64}) {
      const int64_t stride = columns + 5;
      const std::vector<float> floats = values_.floats(keys * stride);
      const std::vector<uint16_t> halves = values_.bf16(keys * stride);
      const Matrix full{floats.data(), stride, keys, columns};
      const Matrix narrow{halves.data(), stride, keys, columns, DType::kBF16};
      for (const int64_t count : kRowCounts) {
        const std::vector<float> x = values_.floats(count * columns);
        const Rows rows{x.data(), columns, count, columns};
        const std::vector<float> weights = values_.floats(count * keys);
        const Rows by{weights.data(), keys, count, keys};
        for (const Matrix& b : {full, narrow}) {
          const Both dots = on_both(std::vector<float>(count * keys, -1.0F),
                                    [&](const Products& products, float* out) {
                                      products.dot_rows(rows, b, 0.3F, out, keys);
                                    });
          EXPECT_TRUE(dots.equal()) << keys << " keys, " << columns << " columns, " << count;
          const Both sums =
              on_both(values_.floats(count * columns), [&](const Products& products, float* out) {
                products.add_product(by, b, out, columns);
              });
          EXPECT_TRUE(sums.equal()) << keys << " keys, " << columns << " columns, " << count;
        }
      }
    }
  }
}

}  // namespace
}  // namespace fathom
