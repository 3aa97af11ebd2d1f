// What the scheduler learns of its steps' times, and how that bounds prompts beside answers.
#include "sched/step_pace.h"

#include <gtest/gtest.h>

#include "driver.h"

namespace fathom {
namespace {

// 10 ms for up to 64 rows, 20 ms for more, and 10 us a prompt's token.
int64_t step_us(int32_t rows, int32_t tokens) {
  return (rows == 0 ? 0 : rows <= 64 ? 10'000 : 20'000) + 10 * int64_t{tokens};
}

PromptWork tokens_alone(int32_t tokens) { return {static_cast<double>(tokens), 0.0}; }

double foretold(const StepPace& pace, int32_t tokens) {
  return pace.prices()->step_us + pace.prices()->us(tokens_alone(tokens));
}

TEST(StepPace, KnowsNothingAtFirst) {
  StepPace pace;
  EXPECT_FALSE(pace.decode_us(8));
  pace.observe(8, tokens_alone(100), 11'000);
  EXPECT_FALSE(pace.prices()) << "what the rows take alone was not seen";
  pace.observe(8, {}, 10'000);
  EXPECT_EQ(pace.decode_us(8), 10'000.0);
  EXPECT_FALSE(pace.prices()) << "what a prompt's token adds was not seen";
}

TEST(StepPace, PricesTokensByWhatTheyAdd) {
  StepPace pace;
  pace.observe(64, {}, step_us(64, 0));
  pace.observe(256, {}, step_us(256, 0));
  for (int i = 0; i < 20; ++i) pace.observe(256, tokens_alone(512), step_us(256, 512));
  EXPECT_NEAR(pace.prices()->token_us, 10.0, 1e-9);
  EXPECT_EQ(pace.decode_us(256), 20'000.0);
  EXPECT_EQ(pace.decode_us(60), 10'000.0);
  EXPECT_EQ(pace.decode_us(100), 10'000.0) << "never seen: as the nearest below";
  EXPECT_EQ(pace.decode_us(1), 10'000.0) << "none below: as the nearest above";
}

// Prompts one after another: 1 ms a step, 4 us a token, 2 ns a pair. What a chunk takes is foretold
// by those before it, of the same prompt and of the last one.
TEST(StepPace, ForetellsChunksOfPrompts) {
  StepPace pace;
  const ChunkPrices real{1000.0, 4.0, 0.002};
  pace.observe(128, {}, 8000);
  for (int prompt = 0; prompt < 4; ++prompt) {
    int chunks = 0;
    for (int32_t context = 0; context < 32'768; ++chunks) {
      const auto prices = pace.prices();
      const int32_t tokens =
          prices ? tokens_within(8000.0 - prices->step_us, *prices, kLatentChunks, context, 8192)
                 : 2048;
      const PromptWork work = kLatentChunks.work(tokens, context);
      const double took = real.step_us + real.us(work);
      if (prompt > 0 || chunks > 8) {
        EXPECT_NEAR(took, 8000.0, 1200.0) << "prompt " << prompt << " at " << context;
      }
      pace.observe(128, work, static_cast<int64_t>(8000.0 + took));
      context += tokens;
    }
  }
}

TEST(StepPace, ForgetsWhatItHasNotSeenForLong) {
  StepPace pace;
  EXPECT_TRUE(pace.is_stale(8));
  pace.observe(8, {}, 10'000);
  EXPECT_FALSE(pace.is_stale(8));
  EXPECT_TRUE(pace.is_stale(256));
  for (int i = 0; i < 64; ++i) pace.observe(8, tokens_alone(100), 12'000);
  EXPECT_FALSE(pace.is_stale(8));
  pace.observe(8, tokens_alone(100), 12'000);
  EXPECT_TRUE(pace.is_stale(8));
}

TEST(StepPace, FollowsAStepThatBecomesSlower) {
  StepPace pace;
  pace.observe(64, {}, 10'000);
  pace.observe(64, tokens_alone(1000), 20'000);
  for (int i = 0; i < 40; ++i) {
    pace.observe(64, {}, 30'000);
    pace.observe(64, tokens_alone(1000), 50'000);
  }
  EXPECT_NEAR(foretold(pace, 1000), 20'000.0, 200.0);
}

TEST(StepPace, StandsStepsThatTakeNoTime) {
  StepPace pace;
  pace.observe(0, {}, 100);
  pace.observe(4, {}, 0);
  pace.observe(4, {}, 500);
  pace.observe(4, tokens_alone(64), 100);
  EXPECT_FALSE(pace.prices()) << "shorter than its rows alone: it says nothing";
  pace.observe(4, tokens_alone(64), 1140);
  EXPECT_NEAR(pace.prices()->token_us, 10.0, 1e-9);
  for (int i = 0; i < 100; ++i) pace.observe(4, tokens_alone(64), 1);
  EXPECT_GT(pace.prices()->token_us, 0.0);
  for (int i = 0; i < 100; ++i) pace.observe(4, tokens_alone(64), 1140);
  EXPECT_NEAR(foretold(pace, 64), 640.0, 10.0) << "it finds back";
}

// The prefill tokens of the next plan.
int32_t prefill_tokens(const StepPlan& plan) {
  int32_t tokens = 0;
  for (const PlanRow& row : plan.rows) tokens += row.kind == RowKind::kPrefill ? row.tokens : 0;
  return tokens;
}

void commit_in(Driver& d, const StepPlan& plan) {
  StepResult result = d.result();
  const auto tokens = prefill_tokens(plan);
  const auto rows = static_cast<int32_t>(plan.rows.size()) - (tokens > 0 ? 1 : 0);
  result.own_us = step_us(rows, tokens);
  d.commit(std::move(result));
}

// Two answers that have begun, their steps' times known: 10 ms, and 10 us a prompt's token.
Driver two_answers(std::optional<double> slowdown, std::optional<int64_t> step_us = {}) {
  SchedulerOptions o = small_options(2000);
  o.max_model_len = 4000;
  o.max_num_batched_tokens = 2048;
  o.prefill_slowdown_max = slowdown;
  o.prefill_step_us_max = step_us;
  o.prefill_tokens_min = 1;
  return Driver(o);
}

void begin_answers(Driver& d) {
  for (RequestId id = 1; id <= 2; ++id) {
    ASSERT_TRUE(d.admit(make_request(id, 200, 1000)).is_ok());
    const auto plan = d.plan();
    ASSERT_TRUE(plan);
    commit_in(d, *plan);
  }
  for (int i = 0; i < 200; ++i) commit_in(d, *d.plan());
}

// The setting that plans so much more than a step of answers alone for a prompt that waits alone:
// 0.85 of its bound.
constexpr double lone(double slowdown) { return 1.0 + (slowdown - 1.0) / 0.85; }

TEST(StepPace, BoundsAPromptBesideAnswers) {
  Driver d = two_answers(lone(1.02));
  begin_answers(d);
  ASSERT_TRUE(d.admit(make_request(3, 3000, 4)).is_ok());
  const auto plan = d.plan();
  ASSERT_TRUE(plan);
  EXPECT_EQ(plan->rows.size(), 3U);
  EXPECT_EQ(prefill_tokens(*plan), 20) << "200 us of 10 ms";
}

// 3,000 tokens that are cached come first: a token beside them costs more.
TEST(StepPace, GivesAPromptLessOnALongContext) {
  SchedulerOptions o = small_options(2000);
  o.max_model_len = 4000;
  o.max_num_batched_tokens = 2048;
  o.prefill_slowdown_max = 2.0;
  Driver d(o);
  begin_answers(d);
  ASSERT_TRUE(d.admit(make_request(3, 3600, 4)).is_ok());
  const auto pairs_us = [](int32_t context, int32_t tokens) {
    return static_cast<int64_t>(0.02 * tokens * (context + 0.5 * tokens));
  };
  int32_t context = 0;
  int32_t last = 0;
  int32_t chunks = 0;
  for (; context < 3600 && chunks < 50; ++chunks) {
    const auto plan = d.plan();
    ASSERT_TRUE(plan);
    const int32_t tokens = prefill_tokens(*plan);
    StepResult result = d.result();
    result.own_us = step_us(2, tokens) + pairs_us(context, tokens);
    if (chunks > 3) {
      EXPECT_LE(result.own_us, 22'000) << "at " << context;
    }
    d.commit(std::move(result));
    if (chunks > 3 && context + tokens < 3600) last = tokens;
    context += tokens;
  }
  EXPECT_EQ(context, 3600);
  EXPECT_LT(last, 200) << "10 + 0.02 * 3,300 us a token";
}

TEST(StepPace, LeavesPromptsTheStepWhileMoreWaitThanAnswer) {
  Driver d = two_answers(1.02);
  begin_answers(d);
  for (RequestId id = 3; id <= 5; ++id) ASSERT_TRUE(d.admit(make_request(id, 3000, 4)).is_ok());
  const auto plan = d.plan();
  ASSERT_TRUE(plan);
  EXPECT_EQ(prefill_tokens(*plan), 2044);
}

TEST(StepPace, BoundsAStepInTimeWhileMoreWaitThanAnswer) {
  Driver d = two_answers(1.02, 16'000);
  begin_answers(d);
  for (RequestId id = 3; id <= 5; ++id) ASSERT_TRUE(d.admit(make_request(id, 3000, 4)).is_ok());
  const auto plan = d.plan();
  ASSERT_TRUE(plan);
  EXPECT_NEAR(prefill_tokens(*plan), 600, 30) << "6 ms beside 10";
}

// What the slowdown allows is allowed whoever waits.
TEST(StepPace, TakesTheLargerBoundWhileMoreWaitThanAnswer) {
  Driver d = two_answers(1.5, 4'000);
  begin_answers(d);
  for (RequestId id = 3; id <= 5; ++id) ASSERT_TRUE(d.admit(make_request(id, 3000, 4)).is_ok());
  EXPECT_NEAR(prefill_tokens(*d.plan()), 1000, 50) << "twice 5 ms beside 10";
}

TEST(StepPace, GivesTwoPromptsThatWaitTwiceAsMuch) {
  Driver d = two_answers(1.02);
  begin_answers(d);
  for (RequestId id = 3; id <= 4; ++id) ASSERT_TRUE(d.admit(make_request(id, 3000, 4)).is_ok());
  EXPECT_EQ(prefill_tokens(*d.plan()), 40) << "400 us of 10 ms";
}

// Many answers, of which no step without prompts was seen: one is planned, and not many.
TEST(StepPace, LearnsFromAStepWithoutPrompts) {
  Driver d = two_answers(1.02);
  begin_answers(d);
  for (RequestId id = 3; id <= 5; ++id) ASSERT_TRUE(d.admit(make_request(id, 4, 1000)).is_ok());
  for (int i = 0; i < 4; ++i) d.step();  // which say nothing of their time: nothing is learned
  ASSERT_TRUE(d.admit(make_request(6, 3000, 4)).is_ok());
  int32_t without = 0;
  for (int i = 0; i < 34; ++i) {
    const auto plan = d.step();
    ASSERT_TRUE(plan);
    without += prefill_tokens(*plan) == 0 ? 1 : 0;
  }
  EXPECT_EQ(without, 2) << "one in seventeen, for five rows were never timed";
}

TEST(StepPace, NeverGivesAPromptLessThanABlock) {
  Driver d = two_answers(1.0001);
  begin_answers(d);
  ASSERT_TRUE(d.admit(make_request(3, 3000, 4)).is_ok());
  EXPECT_EQ(prefill_tokens(*d.plan()), 4);
}

TEST(StepPace, GivesPromptsWhatTheOptionsSay) {
  SchedulerOptions o = small_options(2000);
  o.max_model_len = 4000;
  o.max_num_batched_tokens = 2048;
  o.prefill_slowdown_max = 1.02;
  Driver d(o);
  begin_answers(d);
  ASSERT_TRUE(d.admit(make_request(3, 3000, 4)).is_ok());
  EXPECT_EQ(prefill_tokens(*d.plan()), 256);
}

// The prompts' tokens of a step of two answers that allows a thousand of them.
int32_t rounded_tokens(int32_t round, int32_t prompt) {
  SchedulerOptions o = small_options(2000);
  o.max_model_len = 4000;
  o.max_num_batched_tokens = 2048;
  o.prefill_slowdown_max = lone(2.0);
  o.round_tokens = round;
  Driver d(o);
  begin_answers(d);
  EXPECT_TRUE(d.admit(make_request(3, prompt, 4)).is_ok());
  return prefill_tokens(*d.plan());
}

TEST(StepPace, FillsWholeRoundsWhereMoreWaits) {
  EXPECT_EQ(rounded_tokens(400, 3000), 798) << "with two answers two rounds";
  EXPECT_EQ(rounded_tokens(512, 3000), 894) << "seven quarters of a round";
  EXPECT_NEAR(rounded_tokens(4000, 3000), 980, 40) << "not half a round";
  EXPECT_EQ(rounded_tokens(400, 900), 900) << "all that waits";
}

// A thousand tokens of one prompt attend to more than those of two do.
TEST(StepPace, RoundsByTheLengthsOfThePromptsThatWait) {
  SchedulerOptions o = small_options(2000);
  o.max_model_len = 4000;
  o.max_num_batched_tokens = 2048;
  o.prefill_slowdown_max = 1.5;
  o.round_tokens = 960;
  Driver d(o);
  begin_answers(d);
  ASSERT_TRUE(d.admit(make_request(3, 480, 4)).is_ok());
  ASSERT_TRUE(d.admit(make_request(4, 3000, 4)).is_ok());
  EXPECT_EQ(prefill_tokens(*d.plan()), 958);
}

TEST(StepPace, NeverRoundsAPromptAway) {
  SchedulerOptions o = small_options(2000);
  o.max_model_len = 4000;
  o.max_num_batched_tokens = 2048;
  o.prefill_slowdown_max = 1.03;
  o.prefill_tokens_min = 4;
  o.round_tokens = 24;
  Driver d(o);
  begin_answers(d);
  ASSERT_TRUE(d.admit(make_request(3, 3000, 4)).is_ok());
  EXPECT_EQ(prefill_tokens(*d.plan()), 22) << "a round with the answers";
  o.round_tokens = 30;
  o.prefill_tokens_min = 29;
  Driver whole(o);
  begin_answers(whole);
  ASSERT_TRUE(whole.admit(make_request(3, 3000, 4)).is_ok());
  EXPECT_NEAR(prefill_tokens(*whole.plan()), 29, 1) << "a round would leave less than the least";
}

TEST(StepPace, BoundsNothingWhenNotAsked) {
  Driver d = two_answers(std::nullopt);
  begin_answers(d);
  ASSERT_TRUE(d.admit(make_request(3, 3000, 4)).is_ok());
  EXPECT_EQ(prefill_tokens(*d.plan()), 2044);
}

}  // namespace
}  // namespace fathom
