// What must hold of the model whatever its weights: one result however its work is cut.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "tiny_model.h"

namespace fathom::testing {
namespace {

class BothNumerics : public ::testing::TestWithParam<Numerics> {
 protected:
  BothNumerics() { options_.numerics = GetParam(); }
  TinyOptions options_;
};

TEST_P(BothNumerics, EveryChunkSizeGivesTheSameBits) {
  TinyModel tiny(options_);
  SamplingParams sampling = greedy(4);
  sampling.prompt_logprobs = true;
  const auto prompt = prompt_of(37, 1);
  const auto whole = tiny.driver->generate(prompt, sampling);
  for (int32_t chunk = 1; chunk <= 17; ++chunk) {
    const auto cut = tiny.driver->generate(prompt, sampling, chunk);
    EXPECT_EQ(cut.prompt_logits, whole.prompt_logits) << chunk;
    EXPECT_EQ(cut.step_logits, whole.step_logits) << chunk;
    EXPECT_EQ(cut.tokens, whole.tokens) << chunk;
  }
}

TEST_P(BothNumerics, DecodeEqualsPrefillOfTheSameTokens) {
  TinyModel tiny(options_);
  const auto prompt = prompt_of(9, 2);
  const auto decoded = tiny.driver->generate(prompt, greedy(24));
  std::vector<TokenId> all = prompt;
  all.insert(all.end(), decoded.tokens.begin(), decoded.tokens.end() - 1);
  SamplingParams sampling = greedy(1);
  sampling.prompt_logprobs = true;
  const auto prefilled = tiny.driver->generate(all, sampling);
  const std::vector<std::vector<float>> tail(
      prefilled.prompt_logits.begin() + static_cast<int64_t>(prompt.size()) - 1,
      prefilled.prompt_logits.end());
  EXPECT_EQ(tail, decoded.step_logits);
}

TEST_P(BothNumerics, ThreadsDoNotChangeABit) {
  SamplingParams sampling = greedy(4);
  sampling.prompt_logprobs = true;
  const auto prompt = prompt_of(90, 3);
  TinyModel one(options_);
  options_.threads = 3;
  TinyModel three(options_);
  const auto a = one.driver->generate(prompt, sampling);
  const auto b = three.driver->generate(prompt, sampling);
  EXPECT_EQ(a.prompt_logits, b.prompt_logits);
  EXPECT_EQ(a.step_logits, b.step_logits);
}

TEST_P(BothNumerics, VerifyRowsWithTheDraftLayerEqualPlainDecode) {
  const auto prompt = prompt_of(21, 4);
  TinyModel plain(options_);
  const auto expected = plain.driver->generate(prompt, greedy(40));
  options_.limits.drafts_max = 1;
  TinyModel drafting(options_);
  const auto made = drafting.driver->generate(prompt, greedy(40), 5);
  EXPECT_EQ(made.tokens, expected.tokens);
  EXPECT_EQ(made.step_logits, expected.step_logits);
  EXPECT_EQ(made.finish, FinishReason::kLength);
  EXPECT_GT(made.drafted, 30);
}

// Drafts that are right, wrong, or right and then wrong, put into the slot by hand.
TEST_P(BothNumerics, DraftsAreKeptWhileTheyEqualTheSampledToken) {
  options_.limits.drafts_max = 1;
  TinyModel tiny(options_);
  const auto prompt = prompt_of(12, 5);
  const auto expected = tiny.driver->generate(prompt, greedy(20)).tokens;
  StepPlan plan;
  const SlotId slot = tiny.driver->open(plan, prompt, greedy(20));
  plan.rows = {{slot, RowKind::kPrefill, 12, true}};
  const TokenRun first = tiny.driver->run(plan).rows[0].tokens;
  std::vector<TokenId> made(first.begin(), first.end());
  for (int32_t step = 0; made.size() < expected.size(); ++step) {
    const bool right = step % 3 != 0;
    const TokenId next = expected[made.size()];
    tiny.driver->set_drafts(slot, {right ? next : (next + 1) % 512});
    plan = StepPlan{};
    plan.rows = {{slot, RowKind::kVerify, 2, true}};
    const RowResult row = tiny.driver->run(plan).rows[0];
    const bool room = made.size() + 1 < expected.size();
    ASSERT_EQ(row.tokens.size(), right && room ? 2U : 1U);
    EXPECT_EQ(row.accepted, static_cast<int32_t>(row.tokens.size()));
    EXPECT_EQ(row.drafted, room ? 1 : 0);
    made.insert(made.end(), row.tokens.begin(), row.tokens.end());
  }
  EXPECT_EQ(made, expected);
}

struct Running {
  SlotId slot = 0;
  std::vector<TokenId> prompt;
  SamplingParams sampling;
  int32_t computed = 0;
  std::vector<TokenId> tokens;
  std::vector<std::vector<float>> logits;
  FinishReason finish = FinishReason::kNone;
};

std::vector<Running> mixed_requests(int32_t count) {
  std::vector<Running> all(count);
  for (int32_t i = 0; i < count; ++i) {
    all[i].prompt = prompt_of(1 + (i * 7) % 33, 100 + i);
    SamplingParams& s = all[i].sampling;
    s = greedy(3 + i % 9);
    s.seed = 1000 + i;
    if (i % 3 != 0) s.temperature = 0.5F + 0.1F * static_cast<float>(i % 10);
    if (i % 4 == 1) s.top_p = 0.9F;
    if (i % 5 == 2) s.top_k = 20;
    if (i % 7 == 3) s.repetition_penalty = 1.3F;
    if (i % 6 == 4) s.logit_bias = {{5, 3.0F}, {77, -100.0F}};
  }
  return all;
}

// One step of a batch in which sequences join, prefill in chunks and decode side by side.
void step_mixed(StepDriver& driver, std::vector<Running>& all, int32_t step) {
  StepPlan plan;
  std::vector<Running*> rows;
  for (Running& r : all) {
    const auto prompt = static_cast<int32_t>(r.prompt.size());
    if (r.slot == 0 || r.finish != FinishReason::kNone || r.computed < prompt) continue;
    plan.rows.push_back({r.slot, RowKind::kDecode, 1, true});
    rows.push_back(&r);
  }
  int32_t joins = 6;
  for (Running& r : all) {
    const auto prompt = static_cast<int32_t>(r.prompt.size());
    if (r.slot == 0 && joins-- > 0) r.slot = driver.open(plan, r.prompt, r.sampling);
    if (r.slot == 0 || r.computed >= prompt) continue;
    const int32_t n = std::min(prompt - r.computed, 3 + step % 8);
    plan.rows.push_back({r.slot, RowKind::kPrefill, n, r.computed + n == prompt});
    rows.push_back(&r);
    r.computed += n;
  }
  const StepResult result = driver.run(plan);
  size_t sample = 0;
  for (size_t i = 0; i < rows.size(); ++i) {
    if (!plan.rows[i].sample) continue;
    rows[i]->logits.push_back(driver.logits().at(sample++));
    rows[i]->tokens.push_back(result.rows[i].tokens.front());
    rows[i]->finish = result.rows[i].finish;
  }
}

TEST_P(BothNumerics, SixtyFourMixedSequencesEqualEachAlone) {
  options_.limits.blocks = 500;
  TinyModel tiny(options_);
  std::vector<Running> all = mixed_requests(64);
  const auto running = [](const Running& r) { return r.finish == FinishReason::kNone; };
  for (int32_t step = 0; std::any_of(all.begin(), all.end(), running); ++step) {
    ASSERT_LT(step, 200);
    step_mixed(*tiny.driver, all, step);
  }
  TinyModel fresh(options_);
  for (const Running& r : all) {
    const auto alone = fresh.driver->generate(r.prompt, r.sampling);
    EXPECT_EQ(alone.tokens, r.tokens);
    EXPECT_EQ(alone.step_logits, r.logits);
  }
}

INSTANTIATE_TEST_SUITE_P(Numerics, BothNumerics,
                         ::testing::Values(Numerics::kReference, Numerics::kNative),
                         [](const auto& info) {
                           return info.param == Numerics::kReference ? "Reference" : "Native";
                         });

TEST(DeepseekV3, AbsorbedEqualsNaive) {
  TinyOptions options;
  SamplingParams sampling = greedy(8);
  sampling.prompt_logprobs = true;
  const auto prompt = prompt_of(50, 6);
  options.form = MlaForm::kAbsorbed;
  const auto absorbed = TinyModel(options).driver->generate(prompt, sampling, 13);
  options.form = MlaForm::kNaive;
  const auto naive = TinyModel(options).driver->generate(prompt, sampling, 13);
  EXPECT_LT(largest_difference(absorbed.prompt_logits, naive.prompt_logits), 1e-4F);
  EXPECT_EQ(absorbed.tokens, naive.tokens);
}

// Relative error of the logits of `native` numerics, at the first quartile of positions: those
// where an expert was chosen otherwise, and those that attend to them, are far off, and rightly so.
double quartile_error(TinyOptions options) {
  SamplingParams sampling = greedy(1);
  sampling.prompt_logprobs = true;
  const auto prompt = prompt_of(40, 7);
  const auto reference = TinyModel(options).driver->generate(prompt, sampling).prompt_logits;
  options.numerics = Numerics::kNative;
  const auto native = TinyModel(options).driver->generate(prompt, sampling).prompt_logits;
  std::vector<double> relative;
  for (size_t i = 0; i < prompt.size(); ++i) {
    double error = 0.0;
    double power = 0.0;
    for (size_t k = 0; k < native[i].size(); ++k) {
      error += std::pow(native[i][k] - reference[i][k], 2);
      power += std::pow(reference[i][k], 2);
    }
    relative.push_back(std::sqrt(error / power));
  }
  std::sort(relative.begin(), relative.end());
  return relative[relative.size() / 4];
}

// e4m3 has three bits of mantissa: about 2.6 % of noise per product, of which a path through this
// model sees some twenty. bfloat16 has seven: transformers' own bfloat16 run of this prompt is
// 0.018 off at the same place.
TEST(DeepseekV3, NativeStaysNearReference) {
  TinyOptions options;
  const double fp8 = quartile_error(options);
  EXPECT_GT(fp8, 0.02);
  EXPECT_LT(fp8, 0.2);
  options.format = HashFormat::kBF16;
  const double bf16 = quartile_error(options);
  EXPECT_GT(bf16, 0.0005);
  EXPECT_LT(bf16, 0.03);
  std::printf("relative error: fp8 %.4f, bf16 %.4f\n", fp8, bf16);
}

TEST(DeepseekV3, RunsWithoutQueryCompressionAndWithTiedEmbedding) {
  TinyOptions options;
  options.config["q_lora_rank"] = nullptr;
  options.config["tie_word_embeddings"] = true;
  options.config["num_hidden_layers"] = 2;
  TinyModel tiny(options);
  const auto whole = tiny.driver->generate(prompt_of(10, 8), greedy(6));
  const auto cut = tiny.driver->generate(prompt_of(10, 8), greedy(6), 3);
  EXPECT_EQ(whole.step_logits, cut.step_logits);
}

TEST(DeepseekV3, PowerOfTwoScalesRunInBothNumerics) {
  TinyOptions options;
  options.ue8m0 = true;
  for (const Numerics numerics : {Numerics::kReference, Numerics::kNative}) {
    options.numerics = numerics;
    TinyModel tiny(options);
    const auto whole = tiny.driver->generate(prompt_of(10, 9), greedy(6));
    const auto cut = tiny.driver->generate(prompt_of(10, 9), greedy(6), 4);
    EXPECT_EQ(whole.step_logits, cut.step_logits);
  }
}

}  // namespace
}  // namespace fathom::testing
