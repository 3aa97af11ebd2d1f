// The sampler: its random numbers, its order of application, its distributions.
#include "ops/cpu/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>

#include "ops/cpu/philox.h"

namespace fathom::testing {
namespace {

// Random123's known answers.
TEST(Philox, HasThePublishedAnswers) {
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}),
            (std::array<uint32_t, 4>{0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8}));
  EXPECT_EQ(philox4x32({~0U, ~0U, ~0U, ~0U}, {~0U, ~0U}),
            (std::array<uint32_t, 4>{0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD}));
  EXPECT_EQ(philox4x32({0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344}, {0xA4093822, 0x299F31D0}),
            (std::array<uint32_t, 4>{0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1}));
}

class Sampler : public ::testing::Test {
 protected:
  static constexpr int32_t kVocab = 10;
  static constexpr int32_t kPadded = 12;

  TokenId sample(std::vector<float> logits) {
    logits.resize(kPadded, 100.0F);  // padding that would win
    const SampleContext context{
        sampling_, history_.data(), length_, bias_ids_.data(), bias_values_.data(),
        eos_,      kVocab,          kPadded};
    const SampleScratch scratch{probabilities_.data(), ordered_.data(), raw_.data(),
                                candidates_.data(), counts_.data()};
    const TokenId token = sample_token(context, logits.data(), scratch);
    EXPECT_EQ(counts_, std::vector<int32_t>(kPadded, 0));
    return token;
  }

  // Share of each token over many token indices.
  std::map<TokenId, double> shares(const std::vector<float>& logits, int32_t draws = 20000) {
    std::map<TokenId, double> shares;
    history_.assign(draws, 0);
    for (length_ = 0; length_ < draws; ++length_) shares[sample(logits)] += 1.0 / draws;
    return shares;
  }

  SlotSampling sampling_;
  std::vector<int32_t> history_ = std::vector<int32_t>(64, 0);
  int32_t length_ = 0;
  std::vector<int32_t> bias_ids_ = std::vector<int32_t>(4, 0);
  std::vector<float> bias_values_ = std::vector<float>(4, 0.0F);
  std::vector<TokenId> eos_;
  std::vector<float> probabilities_ = std::vector<float>(kPadded);
  std::vector<float> ordered_ = std::vector<float>(kPadded);
  std::vector<float> raw_ = std::vector<float>(kPadded);
  std::vector<int32_t> candidates_ = std::vector<int32_t>(kPadded);
  std::vector<int32_t> counts_ = std::vector<int32_t>(kPadded, 0);
};

const std::vector<float> kLogits = {0.0F, 1.0F, 2.0F, 2.0F, -1.0F, 0.5F, 1.5F, -2.0F, 0.0F, 1.0F};

TEST_F(Sampler, TemperatureZeroIsArgmaxWithTheLowestId) { EXPECT_EQ(sample(kLogits), 2); }

TEST_F(Sampler, PaddingIsNeverSampled) {
  sampling_.temperature = 5.0F;
  for (const auto& [token, share] : shares(kLogits)) EXPECT_LT(token, kVocab);
}

TEST_F(Sampler, DrawsFollowTheSoftmaxOfTheTemperature) {
  sampling_.temperature = 0.7F;
  double total = 0.0;
  for (const float x : kLogits) total += std::exp(x / 0.7);
  const auto made = shares(kLogits);
  for (int32_t i = 0; i < kVocab; ++i) {
    const double p = std::exp(kLogits[i] / 0.7) / total;
    const auto it = made.find(i);
    EXPECT_NEAR(it == made.end() ? 0.0 : it->second, p, 4.0 * std::sqrt(p / 20000) + 1e-4) << i;
  }
}

TEST_F(Sampler, TheSameSeedAndIndexGiveTheSameToken) {
  sampling_.temperature = 1.0F;
  sampling_.seed_low = 7;
  std::vector<TokenId> first;
  for (length_ = 0; length_ < 50; ++length_) first.push_back(sample(kLogits));
  int differences = 0;
  for (length_ = 0; length_ < 50; ++length_) EXPECT_EQ(sample(kLogits), first[length_]);
  sampling_.seed_high = 1;
  for (length_ = 0; length_ < 50; ++length_) differences += sample(kLogits) != first[length_];
  EXPECT_GT(differences, 10);
}

TEST_F(Sampler, TopKKeepsExactlyKAndTheLowestIdsAmongEquals) {
  sampling_.temperature = 1.0F;
  sampling_.top_k = 1;
  EXPECT_EQ(shares(kLogits, 500).size(), 1U);
  sampling_.top_k = 4;  // 2, 3, 6 and one of the equal 1 and 9
  const auto made = shares(kLogits, 5000);
  EXPECT_EQ(made.size(), 4U);
  EXPECT_TRUE(made.contains(1));
  EXPECT_FALSE(made.contains(9));
}

TEST_F(Sampler, TopPKeepsTheShortestListThatReachesIt) {
  sampling_.temperature = 1.0F;
  double total = 0.0;
  for (const float x : kLogits) total += std::exp(x);
  const double two = 2.0 * std::exp(2.0) / total;
  sampling_.top_p = static_cast<float>(two - 0.01);
  EXPECT_EQ(shares(kLogits, 3000).size(), 2U);
  sampling_.top_p = static_cast<float>(two + 0.01);
  EXPECT_EQ(shares(kLogits, 3000).size(), 3U);
  sampling_.top_p = 0.0F;
  EXPECT_EQ(shares(kLogits, 300).begin()->first, 2);
}

TEST_F(Sampler, MinPIsRelativeToTheMostLikely) {
  sampling_.temperature = 1.0F;
  sampling_.min_p = static_cast<float>(std::exp(-1.2));  // within 1.2 of the largest logit
  const auto made = shares(kLogits, 5000);
  EXPECT_EQ(made.size(), 5U);  // 2, 3, 6, 1, 9
  EXPECT_FALSE(made.contains(5));
}

TEST_F(Sampler, BiasComesBeforePenaltiesAndMasks) {
  sampling_.bias_count = 2;
  bias_ids_ = {7, 11, 0, 0};
  bias_values_ = {4.5F, 100.0F, 0, 0};  // 7 becomes 2.5, the largest; 11 is padding
  EXPECT_EQ(sample(kLogits), 7);
  sampling_.uses_penalties = 1;
  sampling_.repetition_penalty = 2.0F;
  history_[0] = 7;  // in the prompt: the biased 2.5 is halved
  length_ = 1;
  sampling_.prompt_tokens = 1;
  EXPECT_EQ(sample(kLogits), 2);
}

TEST_F(Sampler, FrequencyAndPresenceCountTheAnswerAlone) {
  sampling_.uses_penalties = 1;
  sampling_.frequency_penalty = 0.3F;
  sampling_.prompt_tokens = 3;
  history_ = {2, 2, 2, 2, 3};  // token 2: three times in the prompt, once in the answer
  length_ = 4;
  EXPECT_EQ(sample(kLogits), 3);  // 2.0 - 0.3 against 2.0
  length_ = 5;
  EXPECT_EQ(sample(kLogits), 2);  // both 1.7: the lower id
  sampling_.presence_penalty = 0.5F;
  EXPECT_EQ(sample(kLogits), 6);  // both 1.2 against 1.5
}

TEST_F(Sampler, EosAndStopIdsAreMaskedBelowTheMinimum) {
  eos_ = {2};
  sampling_.stop_id_count = 1;
  sampling_.stop_ids[0] = 3;
  sampling_.min_total_tokens = 5;
  length_ = 4;
  EXPECT_EQ(sample(kLogits), 6);
  sampling_.ignore_eos = 1;  // then 2 is a token like any other
  EXPECT_EQ(sample(kLogits), 2);
  length_ = 5;
  sampling_.ignore_eos = 0;
  EXPECT_EQ(sample(kLogits), 2);
  EXPECT_TRUE(ends_sequence(sampling_, eos_, 2));
  EXPECT_TRUE(ends_sequence(sampling_, eos_, 3));
  EXPECT_FALSE(ends_sequence(sampling_, eos_, 6));
  sampling_.ignore_eos = 1;
  EXPECT_FALSE(ends_sequence(sampling_, eos_, 2));
}

TEST_F(Sampler, ExtremesDoNotBreakIt) {
  sampling_.temperature = 1e-30F;
  EXPECT_TRUE(sample(kLogits) == 2 || sample(kLogits) == 3);
  sampling_.temperature = 1.0F;
  const float inf = std::numeric_limits<float>::infinity();
  EXPECT_EQ(sample(std::vector<float>(kVocab, -inf)), 0);
  EXPECT_EQ(sample(std::vector<float>(kVocab, std::nanf(""))), 0);
  std::vector<float> one(kVocab, -inf);
  one[4] = -1e30F;
  EXPECT_EQ(sample(one), 4);
}

TEST(Logprobs, AreTheLogSoftmaxAndTheTopComesInOrder) {
  std::vector<float> work(kLogits.size());
  const float norm = log_sum_exp(kLogits.data(), 10, work.data());
  double total = 0.0;
  for (const float x : kLogits) total += std::exp(double{x});
  EXPECT_NEAR(norm, std::log(total), 1e-6);
  int32_t ids[4];
  float logprobs[4];
  top_entries(kLogits.data(), 10, 4, norm, ids, logprobs);
  EXPECT_EQ((std::vector<int32_t>(ids, ids + 4)), (std::vector<int32_t>{2, 3, 6, 1}));
  EXPECT_NEAR(logprobs[2], 1.5 - std::log(total), 1e-6);
}

}  // namespace
}  // namespace fathom::testing
