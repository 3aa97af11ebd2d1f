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

TEST(StepPace, KnowsNothingAtFirst) {
  StepPace pace;
  EXPECT_FALSE(pace.tokens_beside(8, 2.0));
  pace.observe(8, 0, 10'000);
  EXPECT_FALSE(pace.tokens_beside(8, 2.0)) << "what a prompt's token adds was not seen";
}

TEST(StepPace, PricesTokensByWhatTheyAdd) {
  StepPace pace;
  pace.observe(64, 0, step_us(64, 0));
  pace.observe(256, 0, step_us(256, 0));
  for (int i = 0; i < 20; ++i) pace.observe(256, 512, step_us(256, 512));
  EXPECT_EQ(pace.tokens_beside(256, 2.0), 2000);
  EXPECT_EQ(pace.tokens_beside(256, 1.5), 1000);
  EXPECT_EQ(pace.tokens_beside(60, 2.0), 1000);
  EXPECT_EQ(pace.tokens_beside(100, 2.0), 1000) << "never seen: as the nearest below";
  EXPECT_EQ(pace.tokens_beside(1, 2.0), 1000) << "none below: as the nearest above";
}

TEST(StepPace, ForgetsWhatItHasNotSeenForLong) {
  StepPace pace;
  EXPECT_TRUE(pace.is_stale(8));
  pace.observe(8, 0, 10'000);
  EXPECT_FALSE(pace.is_stale(8));
  EXPECT_TRUE(pace.is_stale(256));
  for (int i = 0; i < 64; ++i) pace.observe(8, 100, 12'000);
  EXPECT_FALSE(pace.is_stale(8));
  pace.observe(8, 100, 12'000);
  EXPECT_TRUE(pace.is_stale(8));
}

TEST(StepPace, FollowsAStepThatBecomesSlower) {
  StepPace pace;
  pace.observe(64, 0, 10'000);
  pace.observe(64, 1000, 20'000);
  for (int i = 0; i < 40; ++i) {
    pace.observe(64, 0, 30'000);
    pace.observe(64, 1000, 50'000);
  }
  EXPECT_NEAR(static_cast<double>(*pace.tokens_beside(64, 2.0)), 1500.0, 15.0);
}

TEST(StepPace, StandsStepsThatTakeNoTime) {
  StepPace pace;
  pace.observe(0, 0, 100);
  pace.observe(4, 0, 0);
  pace.observe(4, 0, 500);
  pace.observe(4, 64, 100);
  EXPECT_GT(*pace.tokens_beside(4, 2.0), 0);
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
Driver two_answers(std::optional<double> slowdown) {
  SchedulerOptions o = small_options(2000);
  o.max_model_len = 4000;
  o.max_num_batched_tokens = 2048;
  o.prefill_slowdown_max = slowdown;
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

TEST(StepPace, BoundsAPromptBesideAnswers) {
  Driver d = two_answers(1.02);
  begin_answers(d);
  ASSERT_TRUE(d.admit(make_request(3, 3000, 4)).is_ok());
  const auto plan = d.plan();
  ASSERT_TRUE(plan);
  EXPECT_EQ(plan->rows.size(), 3U);
  EXPECT_EQ(prefill_tokens(*plan), 20) << "200 us of 10 ms";
}

TEST(StepPace, LeavesPromptsTheStepWhileMoreWaitThanAnswer) {
  Driver d = two_answers(1.02);
  begin_answers(d);
  for (RequestId id = 3; id <= 5; ++id) ASSERT_TRUE(d.admit(make_request(id, 3000, 4)).is_ok());
  const auto plan = d.plan();
  ASSERT_TRUE(plan);
  EXPECT_EQ(prefill_tokens(*plan), 2044);
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

TEST(StepPace, BoundsNothingWhenNotAsked) {
  Driver d = two_answers(std::nullopt);
  begin_answers(d);
  ASSERT_TRUE(d.admit(make_request(3, 3000, 4)).is_ok());
  EXPECT_EQ(prefill_tokens(*d.plan()), 2044);
}

}  // namespace
}  // namespace fathom
