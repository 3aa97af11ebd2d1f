// What must hold of every family whatever its weights: one result however its work is cut over
// steps, rows and ranks.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <thread>

#include "base/file.h"
#include "comm/thread_comm.h"
#include "family_model.h"

namespace fathom::testing {
namespace {

// Of the logits' size; the first where embeddings are tied, and layers' outputs as large as what
// entered (src/weights/synthetic.cpp).
constexpr double kFp8CacheBoundTied = 0.1;
constexpr double kFp8CacheBound = 0.015;
constexpr float kTolerance = 1e-4F;  // of logits of size 2: ranks sum in another order

float largest_difference(const std::vector<std::vector<float>>& a,
                         const std::vector<std::vector<float>>& b) {
  FATHOM_CHECK(a.size() == b.size(), "logits of different lengths");
  float largest = 0.0F;
  for (size_t i = 0; i < a.size(); ++i) {
    for (size_t k = 0; k < a[i].size(); ++k) {
      const float d = std::fabs(a[i][k] - b[i][k]);
      largest = d > largest || d != d ? d : largest;
    }
  }
  return largest;
}

SamplingParams greedy(int32_t tokens) {
  SamplingParams sampling;
  sampling.temperature = 0.0F;
  sampling.max_tokens = tokens;
  sampling.ignore_eos = true;
  sampling.prompt_logprobs = true;
  return sampling;
}

std::vector<TokenId> prompt_of(int32_t tokens) {
  std::vector<TokenId> prompt(tokens);
  for (int32_t i = 0; i < tokens; ++i) prompt[i] = (i * 131 + 7 * i * i + 11) % 512;
  return prompt;
}

struct Case {
  std::string name;
  Numerics numerics;
  bool fp8_cache;
};

class FamilyTest : public ::testing::TestWithParam<Case> {
 protected:
  FamilyTest() {
    options_.numerics = GetParam().numerics;
    options_.fp8_cache = GetParam().fp8_cache;
  }
  const std::string& name() const { return GetParam().name; }
  FamilyOptions options_;
};

TEST_P(FamilyTest, EveryChunkSizeGivesTheSameBits) {
  FamilyModel tiny(name(), options_);
  const auto prompt = prompt_of(37);
  const auto whole = tiny.driver->generate(prompt, greedy(2));
  for (int32_t chunk = 1; chunk <= 17; ++chunk) {
    const auto cut = tiny.driver->generate(prompt, greedy(2), chunk);
    EXPECT_EQ(cut.prompt_logits, whole.prompt_logits) << chunk;
    EXPECT_EQ(cut.step_logits, whole.step_logits) << chunk;
  }
}

// Then the last layer's MLP has the tokens that are sampled from alone, where a model does so.
TEST_P(FamilyTest, AnswersAreTheSameWhereNoOtherLogitsAreWanted) {
  FamilyModel tiny(name(), options_);
  const auto prompt = prompt_of(37);
  SamplingParams alone = greedy(3);
  alone.prompt_logprobs = false;
  const auto all = tiny.driver->generate(prompt, greedy(3));
  for (const int32_t chunk : {0, 5, 12}) {
    const auto few = tiny.driver->generate(prompt, alone, chunk);
    EXPECT_EQ(few.step_logits, all.step_logits) << chunk;
    EXPECT_EQ(few.tokens, all.tokens) << chunk;
  }
}

TEST_P(FamilyTest, DecodeEqualsPrefillOfTheSameTokens) {
  FamilyModel tiny(name(), options_);
  const auto prompt = prompt_of(9);
  const auto decoded = tiny.driver->generate(prompt, greedy(24));
  std::vector<TokenId> all = prompt;
  all.insert(all.end(), decoded.tokens.begin(), decoded.tokens.end() - 1);
  const auto prefilled = tiny.driver->generate(all, greedy(1));
  const std::vector<std::vector<float>> tail(
      prefilled.prompt_logits.begin() + static_cast<int64_t>(prompt.size()) - 1,
      prefilled.prompt_logits.end());
  EXPECT_EQ(tail, decoded.step_logits);
}

TEST_P(FamilyTest, VerifyRowsEqualDecodeWhateverTheDrafts) {
  FamilyModel plain(name(), options_);
  const auto prompt = prompt_of(12);
  const auto expected = plain.driver->generate(prompt, greedy(16)).tokens;
  options_.limits.drafts_max = 3;
  FamilyModel drafting(name(), options_, {});
  StepDriver& driver = *drafting.driver;
  driver.draft_by_hand();
  StepPlan plan;
  const SlotId slot = driver.open(plan, prompt, greedy(16));
  plan.rows = {{slot, RowKind::kPrefill, 12, true}};
  const TokenRun first = driver.run(plan).rows[0].tokens;
  std::vector<TokenId> made(first.begin(), first.end());
  for (size_t right = 0; made.size() < expected.size(); right = (right + 1) % 4) {
    std::vector<TokenId> drafts;
    for (size_t i = 0; i < 3 && made.size() + i < expected.size(); ++i) {
      const TokenId next = expected[made.size() + i];
      drafts.push_back(i < right ? next : (next + 1) % 512);
    }
    driver.set_drafts(slot, drafts);
    plan = StepPlan{};
    plan.rows = {{slot, RowKind::kVerify, 4, true}};
    const RowResult row = driver.run(plan).rows[0];
    ASSERT_EQ(row.tokens.size(), std::min(right + 1, expected.size() - made.size()));
    made.insert(made.end(), row.tokens.begin(), row.tokens.end());
  }
  EXPECT_EQ(made, expected);
}

TEST_P(FamilyTest, ThreadsDoNotChangeABit) {
  const auto prompt = prompt_of(90);
  FamilyModel one(name(), options_);
  options_.threads = 3;
  FamilyModel three(name(), options_);
  EXPECT_EQ(one.driver->generate(prompt, greedy(2)).prompt_logits,
            three.driver->generate(prompt, greedy(2)).prompt_logits);
}

// Sequences that prefill and decode side by side.
TEST_P(FamilyTest, RowsOfABatchEqualEachAlone) {
  FamilyModel tiny(name(), options_);
  StepDriver& driver = *tiny.driver;
  std::vector<std::vector<TokenId>> made(6);
  std::vector<SlotId> slots(6, 0);
  for (int32_t step = 0; step < 12; ++step) {
    StepPlan plan;
    for (int32_t i = 0; i < std::min(step, 6); ++i) {
      if (slots[i] != 0) plan.rows.push_back({slots[i], RowKind::kDecode, 1, true});
    }
    if (step < 6) {
      const auto prompt = prompt_of(3 + 7 * step);
      slots[step] = driver.open(plan, prompt, greedy(20));
      plan.rows.push_back({slots[step], RowKind::kPrefill, 3 + 7 * step, true});
    }
    const StepResult result = driver.run(plan);
    for (size_t i = 0; i < result.rows.size(); ++i)
      made[i].push_back(result.rows[i].tokens.front());
  }
  for (int32_t i = 0; i < 6; ++i) {
    const auto alone =
        driver.generate(prompt_of(3 + 7 * i), greedy(static_cast<int32_t>(made[i].size())));
    EXPECT_EQ(made[i], alone.tokens) << i;
  }
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const std::string& name : family_names()) {
    all.push_back({name, Numerics::kReference, false});
    all.push_back({name, Numerics::kNative, false});
    all.push_back({name, Numerics::kNative, true});
  }
  return all;
}

INSTANTIATE_TEST_SUITE_P(Families, FamilyTest, ::testing::ValuesIn(cases()), [](const auto& info) {
  return info.param.name + (info.param.numerics == Numerics::kNative ? "_native" : "_reference") +
         (info.param.fp8_cache ? "_fp8_cache" : "");
});

class FamilyFp8CacheTest : public ::testing::TestWithParam<std::string> {};

// ||a - b|| / ||b||
double distance(const std::vector<float>& a, const std::vector<float>& b) {
  double error = 0.0;
  double size = 0.0;
  for (size_t k = 0; k < b.size(); ++k) {
    error += (double{a[k]} - b[k]) * (double{a[k]} - b[k]);
    size += double{b[k]} * b[k];
  }
  return std::sqrt(error / size);
}

// How far e4m3 keys, values and latents move the logits of a prompt, at the middle one of its
// positions: where experts are chosen anew a logit may go anywhere (docs/numerics.md).
TEST_P(FamilyFp8CacheTest, LogitsStayNear) {
  FamilyOptions options;
  options.numerics = Numerics::kNative;
  FamilyModel plain(GetParam(), options);
  options.fp8_cache = true;
  FamilyModel quantized(GetParam(), options);
  const auto expected = plain.driver->generate(prompt_of(90), greedy(1)).prompt_logits;
  const auto found = quantized.driver->generate(prompt_of(90), greedy(1)).prompt_logits;
  std::vector<double> distances;
  for (size_t i = 0; i < found.size(); ++i) distances.push_back(distance(found[i], expected[i]));
  std::sort(distances.begin(), distances.end());
  const double moved = distances[distances.size() / 2];
  std::printf("%-24s logits move by %.3f of their size, at most by %.3f\n", GetParam().c_str(),
              moved, distances.back());
  const Result<std::string> config =
      read_file(families_directory() + "/" + GetParam() + "/config.json", 1 << 20);
  ASSERT_TRUE(config.is_ok());
  const bool tied = config.value().find("\"tie_word_embeddings\": true") != std::string::npos;
  EXPECT_LT(moved, tied ? kFp8CacheBoundTied : kFp8CacheBound);
  EXPECT_GT(moved, 0.0) << "the cache is not quantized";
}

INSTANTIATE_TEST_SUITE_P(Families, FamilyFp8CacheTest, ::testing::ValuesIn(family_names()),
                         [](const auto& info) { return info.param; });

enum class Split { kTensor, kPipeline };

// What the last rank computed, with every rank a thread.
StepDriver::Generated generate_on(const std::string& name, int32_t ranks, Split split) {
  auto comms = make_thread_group(ranks);
  std::vector<StepDriver::Generated> made(ranks);
  std::vector<std::unique_ptr<FamilyModel>> models(ranks);
  for (int32_t rank = 0; rank < ranks; ++rank) {
    Groups groups;
    (split == Split::kTensor ? groups.tp : groups.pp) = comms[rank].get();
    models[rank] = std::make_unique<FamilyModel>(name, FamilyOptions{}, groups);
  }
  std::vector<std::thread> threads;
  for (int32_t rank = 0; rank < ranks; ++rank) {
    threads.emplace_back(
        [&, rank] { made[rank] = models[rank]->driver->generate(prompt_of(30), greedy(12), 11); });
  }
  for (std::thread& thread : threads) thread.join();
  for (int32_t rank = 0; rank < ranks; ++rank) {
    EXPECT_TRUE(models[rank]->ops->health().is_ok());
    EXPECT_EQ(made[rank].tokens, made[0].tokens) << "rank " << rank;
  }
  return made.back();
}

class FamilyParallelTest : public ::testing::TestWithParam<std::string> {};

TEST_P(FamilyParallelTest, RanksEqualOneRank) {
  FamilyModel alone(GetParam(), {});
  const auto expected = alone.driver->generate(prompt_of(30), greedy(12), 11);
  const std::pair<int32_t, Split> splits[] = {
      {2, Split::kTensor}, {4, Split::kTensor}, {2, Split::kPipeline}};
  for (const auto& [ranks, split] : splits) {
    const auto made = generate_on(GetParam(), ranks, split);
    EXPECT_EQ(made.tokens, expected.tokens) << ranks;
    EXPECT_LT(largest_difference(made.prompt_logits, expected.prompt_logits), kTolerance) << ranks;
    EXPECT_LT(largest_difference(made.step_logits, expected.step_logits), kTolerance) << ranks;
  }
}

INSTANTIATE_TEST_SUITE_P(Families, FamilyParallelTest, ::testing::ValuesIn(family_names()),
                         [](const auto& info) { return info.param; });

class FamilyFormTest : public ::testing::TestWithParam<std::string> {};

TEST_P(FamilyFormTest, AbsorbedEqualsNaive) {
  FamilyOptions options;
  options.form = MlaForm::kAbsorbed;
  const auto absorbed =
      FamilyModel(GetParam(), options).driver->generate(prompt_of(50), greedy(8), 13);
  options.form = MlaForm::kNaive;
  const auto naive =
      FamilyModel(GetParam(), options).driver->generate(prompt_of(50), greedy(8), 13);
  EXPECT_LT(largest_difference(absorbed.prompt_logits, naive.prompt_logits), kTolerance);
  EXPECT_EQ(absorbed.tokens, naive.tokens);
}

INSTANTIATE_TEST_SUITE_P(Families, FamilyFormTest, ::testing::Values("v2_lite", "v2", "v2_fp8"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace fathom::testing
