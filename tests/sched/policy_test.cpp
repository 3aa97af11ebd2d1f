// The scheduler's choices, one by one.
#include "sched/policy.h"

#include <gtest/gtest.h>

#include <array>

namespace fathom {
namespace {

Sequence sequence(uint64_t order, int32_t priority, int32_t blocks = 1) {
  Sequence s;
  s.order = order;
  s.id = order;
  s.priority = priority;
  s.phase = Phase::kRunning;
  s.groups.resize(1);
  s.groups[0].ids.assign(blocks, 1);
  return s;
}

TEST(Policy, QueueOrderIsArrivalWithinAPriority) {
  EXPECT_LT(queue_key(10, 0, 100), queue_key(20, 0, 100));
  EXPECT_LT(queue_key(20, 0, 100), queue_key(10, 1, 100)) << "more urgent, though later";
  EXPECT_LT(queue_key(10, 1, 100), queue_key(120, 0, 100)) << "but not for ever";
  EXPECT_LT(queue_key(50, -1, 100), queue_key(10, 0, 100));
}

TEST(Policy, EqualKeysAreServedInOrderOfAdmission) {
  Sequence a = sequence(1, 0);
  Sequence b = sequence(2, 0);
  EXPECT_TRUE(runs_before(a, b));
  EXPECT_FALSE(runs_before(b, a));
  b.queue_key = -1;
  EXPECT_TRUE(runs_before(b, a));
}

TEST(Policy, TheNewestOfTheLowestPriorityGivesWay) {
  Sequence a = sequence(1, 5);
  Sequence b = sequence(2, 1);
  Sequence c = sequence(3, 1);
  Sequence d = sequence(4, 0);
  std::array running{&a, &b, &c, &d};
  EXPECT_EQ(choose_victim(running, d, 0, 2), &c) << "a has the lowest priority, but is the oldest";
  EXPECT_EQ(choose_victim(running, a, 0, 2), &c);
}

TEST(Policy, NobodyGivesWayToItself) {
  Sequence a = sequence(1, 0);
  Sequence b = sequence(2, 0);
  std::array running{&a, &b};
  EXPECT_EQ(choose_victim(running, b, 0, 2), nullptr);
  EXPECT_EQ(choose_victim(running, a, 0, 2), &b);
}

TEST(Policy, ARequestGivesWayOnlySoOften) {
  Sequence a = sequence(1, 0);
  Sequence b = sequence(2, 0);
  Sequence c = sequence(3, 0);
  c.preemptions = 2;
  std::array running{&a, &b, &c};
  EXPECT_EQ(choose_victim(running, a, 0, 2), &b);
  EXPECT_EQ(choose_victim(running, a, 0, 3), &c);
}

TEST(Policy, WhoHoldsNothingOrIsLeavingIsNoVictim) {
  Sequence a = sequence(1, 0);
  Sequence b = sequence(2, 0);
  Sequence c = sequence(3, 0, 0);
  Sequence d = sequence(4, 0);
  d.phase = Phase::kPreempting;
  std::array running{&a, &b, &c, &d};
  EXPECT_EQ(choose_victim(running, a, 0, 2), &b);
}

TEST(Policy, StepsAreWholeRoundsWhereLittleIsLeftOver) {
  EXPECT_EQ(whole_rounds(2300, 1024), 2048);
  EXPECT_EQ(whole_rounds(1536, 1024), 1024) << "a third is left over";
  EXPECT_EQ(whole_rounds(1800, 1024), 1792) << "quarters";
  EXPECT_EQ(whole_rounds(2048, 1024), 2048);
  EXPECT_EQ(whole_rounds(700, 1024), 512);
  EXPECT_EQ(whole_rounds(512, 1024), 512);
  EXPECT_EQ(whole_rounds(300, 1024), 300) << "too few for it to matter";
  EXPECT_EQ(whole_rounds(7, 1), 7);
}

TEST(Policy, ChunksAreWholeBlocksOrTheRest) {
  EXPECT_EQ(prefill_chunk(100, 70, 64, 64), 64);
  EXPECT_EQ(prefill_chunk(100, 63, 64, 64), 0);
  EXPECT_EQ(prefill_chunk(63, 63, 64, 64), 63);
  EXPECT_EQ(prefill_chunk(100, 100, 64, 64), 100);
  EXPECT_EQ(prefill_chunk(300, 200, 64, 64), 192);
  EXPECT_EQ(prefill_chunk(300, 203, 64, 1), 203);
  EXPECT_EQ(prefill_chunk(300, 63, 64, 1), 0) << "a block at least";
}

TEST(Policy, BudgetCountsTokens) {
  StepBudget budget(10, {});
  EXPECT_EQ(budget.tokens_left(), 10);
  EXPECT_EQ(budget.prompt_tokens_left(1000), 10);
  budget.take(3);
  budget.take_prompt(4, 1000);
  EXPECT_EQ(budget.tokens_left(), 3);
  EXPECT_EQ(budget.prompt_tokens_left(0), 3);
  budget.close();
  EXPECT_EQ(budget.tokens_left(), 0);
}

// 2 us a token and 1 us a pair of it with a cached one: 10 tokens on a context of 3 cost 20 + 80.
TEST(Policy, BudgetPricesPromptsByTheirContext) {
  StepBudget budget(1000, {});
  budget.bound_prompts(100.0, {30.0, 2.0, 1.0}, 4);
  EXPECT_EQ(budget.tokens_left(), 1000) << "of rows that decode";
  EXPECT_EQ(budget.prompt_tokens_left(3), 10);
  EXPECT_EQ(budget.prompt_tokens_left(100), 4) << "so many whatever they cost";
  budget.take_prompt(4, 3);
  EXPECT_EQ(budget.prompt_tokens_left(3), 8) << "72 us are left";
  EXPECT_EQ(budget.prompt_tokens_left(100), 0) << "another prompt has no tokens for sure";
  EXPECT_EQ(budget.tokens_left(), 996);
}

TEST(Policy, KnowsWhichSamplingKeepsCounts) {
  SamplingParams s;
  EXPECT_FALSE(uses_penalties(s));
  s.presence_penalty = 0.1F;
  EXPECT_TRUE(uses_penalties(s));
  s = {};
  s.frequency_penalty = -0.1F;
  EXPECT_TRUE(uses_penalties(s));
  s = {};
  s.repetition_penalty = 1.1F;
  EXPECT_TRUE(uses_penalties(s));
}

}  // namespace
}  // namespace fathom
