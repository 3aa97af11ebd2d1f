// Which form of latent attention prefill rows take: no GPU needed.
#include "ops/cuda/choose_mla_prefill.h"

#include <gtest/gtest.h>

namespace fathom {
namespace {

MlaPrefillForm choose(int32_t tokens, int64_t context, int32_t heads = 16) {
  return choose_mla_prefill({1, tokens, tokens, context + tokens, heads, false});
}

TEST(ChooseMlaPrefill, ReadsTheLatentsForFewTokensOfALongContext) {
  for (const int32_t heads : {16, 128}) {
    EXPECT_EQ(choose(16, 49'984, heads), MlaPrefillForm::kAbsorbed);
    EXPECT_EQ(choose(64, 32'768, heads), MlaPrefillForm::kAbsorbed);
    EXPECT_EQ(choose(256, 32'768, heads), MlaPrefillForm::kNaive);
    EXPECT_EQ(choose(8192, 0, heads), MlaPrefillForm::kNaive);
  }
}

TEST(ChooseMlaPrefill, MakesKeysOfAShortContext) {
  EXPECT_EQ(choose(64, 0), MlaPrefillForm::kNaive);
  EXPECT_EQ(choose(64, 512), MlaPrefillForm::kNaive);
}

// Many tokens share the making of keys, whatever the context.
TEST(ChooseMlaPrefill, HasABorder) {
  for (int64_t context = 1024; context <= 131'072; context *= 2) {
    int32_t most = 0;
    for (int32_t tokens = 1; tokens <= 2048; ++tokens) {
      if (choose(tokens, context) == MlaPrefillForm::kAbsorbed) most = tokens;
    }
    EXPECT_LT(most, kMlaAbsorbedTokensMax) << "the limit is no border of its own, at " << context;
    if (context >= 16'384) {
      EXPECT_GE(most, 128) << context;
    }
  }
}

TEST(ChooseMlaPrefill, KeepsOneFormWhereBitsMustNotDependOnChunks) {
  EXPECT_EQ(choose_mla_prefill({1, 16, 16, 50'000, 16, true}), MlaPrefillForm::kNaive);
  EXPECT_EQ(choose_mla_prefill({1, 16, 16, 0, 16, false}), MlaPrefillForm::kNaive);
}

TEST(ChooseMlaPrefill, HoldsQueriesOfSoManyPairs) {
  EXPECT_EQ(choose_mla_prefill({1, 64, 2048, 32'768, 16, false}), MlaPrefillForm::kAbsorbed);
  EXPECT_EQ(choose_mla_prefill({1, 64, 2049, 32'768, 16, false}), MlaPrefillForm::kNaive);
}

}  // namespace
}  // namespace fathom
