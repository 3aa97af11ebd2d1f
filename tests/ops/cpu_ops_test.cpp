// The CPU backend's router and quantizer alone.
#include <gtest/gtest.h>

#include <cmath>

#include "ops/cpu/activation.h"
#include "ops/cpu/router.h"
#include "ops/op_inputs.h"

namespace fathom::testing {
namespace {

TEST(Quantizer, EqualsTheScalarConversionInEveryLane) {
  for (uint32_t seed = 0; seed < 200; ++seed) {
    const int64_t n = 1 + seed % 128;
    const float spread = std::ldexp(1.0F, static_cast<int>(seed % 40) - 20);
    const std::vector<float> x = random_matrix(1, n, seed, spread).values;
    float largest = 1e-4F;
    for (const float v : x) largest = std::max(largest, std::fabs(v));
    std::vector<uint8_t> codes(n);
    const float scale = quantize_group(x.data(), n, ScaleForm::kFloat, codes.data());
    EXPECT_EQ(scale, largest / 448.0F);
    for (int64_t i = 0; i < n; ++i) ASSERT_EQ(codes[i], float_to_e4m3(x[i] / scale)) << seed;
    const float power = quantize_group(x.data(), n, ScaleForm::kPowerOfTwo, codes.data());
    EXPECT_EQ(power, power_of_two_at_least(scale));
    const float short_scale = quantize_group(x.data(), n, ScaleForm::kBF16, codes.data());
    EXPECT_EQ(short_scale, bf16_at_least(scale));
    for (int64_t i = 0; i < n; ++i) ASSERT_EQ(codes[i], float_to_e4m3(x[i] / short_scale)) << seed;
  }
}

struct Routed {
  std::vector<int32_t> ids;
  std::vector<float> weights;
};

Routed route_one(const MoeParams& params, std::vector<float> logits) {
  Routed routed{std::vector<int32_t>(params.experts_per_token),
                std::vector<float>(params.experts_per_token)};
  std::vector<float> scratch(route_scratch_floats(params));
  route(params, logits.data(), scratch.data(), routed.ids.data(), routed.weights.data());
  return routed;
}

MoeParams v3_router(std::vector<float>& bias) {
  MoeParams params;
  params.experts = 8;
  params.experts_per_token = 2;
  params.groups = 4;
  params.groups_per_token = 2;
  params.scale = 2.5F;
  params.bias = Tensor::of(bias.data(), DType::kF32, {8});
  return params;
}

float sigmoid(float x) { return 1.0F / (1.0F + std::exp(-x)); }

TEST(Router, BiasChoosesAndPlainScoresWeigh) {
  std::vector<float> bias = {0, 0, 0, 0, 0, 0, 0, 1};
  const std::vector<float> logits = {2, 0, -9, -9, 1, 1, -9, -1};
  // Sums of two: group 0 1.38, group 1 0, group 2 1.46, group 3 1.27: groups 2 and 0 stay, so
  // expert 7's biased 1.27 is out.
  const Routed routed = route_one(v3_router(bias), logits);
  EXPECT_EQ(routed.ids, (std::vector<int32_t>{0, 4}));
  const float a = sigmoid(2.0F);
  const float b = sigmoid(1.0F);
  EXPECT_NEAR(routed.weights[0], 2.5F * a / (a + b), 1e-6);
  EXPECT_NEAR(routed.weights[1], 2.5F * b / (a + b), 1e-6);
}

TEST(Router, EqualScoresGoToTheLowestIdAndNegativeOnesStillBeatExcludedGroups) {
  std::vector<float> bias(8, 0.0F);
  EXPECT_EQ(route_one(v3_router(bias), std::vector<float>(8, 0.5F)).ids,
            (std::vector<int32_t>{0, 1}));
  bias.assign(8, -3.0F);
  EXPECT_EQ(route_one(v3_router(bias), {0, 0, 5, 5, 0, 0, 4, -8}).ids,
            (std::vector<int32_t>{2, 3}));
}

TEST(Router, SoftmaxGreedyAndGroupLimited) {
  MoeParams params;
  params.experts = 6;
  params.experts_per_token = 2;
  params.score = ScoreFunction::kSoftmax;
  params.group_score = GroupScore::kMax;
  params.normalize = false;
  params.scale = 16.0F;
  const std::vector<float> logits = {1, 3, 0, 2, 2.5F, -1};
  double sum = 0.0;
  for (const float x : logits) sum += std::exp(x);
  const Routed greedy = route_one(params, logits);
  EXPECT_EQ(greedy.ids, (std::vector<int32_t>{1, 4}));
  EXPECT_NEAR(greedy.weights[0], 16.0 * std::exp(3.0) / sum, 1e-5);
  params.groups = 3;
  params.groups_per_token = 1;
  EXPECT_EQ(route_one(params, logits).ids, (std::vector<int32_t>{1, 0}));
}

}  // namespace
}  // namespace fathom::testing
