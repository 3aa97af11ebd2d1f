// Who gives way when blocks run out, what becomes of it, and windows that give blocks back.
#include <gtest/gtest.h>

#include <algorithm>

#include "driver.h"
#include "test_access.h"

namespace fathom {
namespace {

TEST(Preemption, TheNewestGivesWayAndGoesOnWithItsHistory) {
  Driver d(small_options(/*blocks=*/4));
  ASSERT_TRUE(d.admit(make_request(1, 4, 8)).is_ok());
  ASSERT_TRUE(d.admit(make_request(2, 4, 8)).is_ok());
  for (int32_t i = 0; i < 5; ++i) ASSERT_TRUE(d.step());
  EXPECT_EQ(d.scheduler.stats().preemptions_total, 0U);
  EXPECT_EQ(d.scheduler.stats().blocks_used, 4) << "two each, both full";
  EXPECT_EQ(d.token_count(2), 5);
  const auto plan = d.step();
  EXPECT_EQ(d.scheduler.stats().preemptions_total, 1U);
  ASSERT_EQ(plan->rows.size(), 1U);
  EXPECT_EQ(d.scheduler.stats().requests_waiting, 1);
  EXPECT_EQ(d.scheduler.stats().waiting_tokens, 9) << "prompt and answer so far";
  std::optional<StepPlan> again;
  while (!again || again->open.empty()) again = d.step();
  EXPECT_EQ(again->open[0].tokens->size(), 9U);
  EXPECT_EQ(again->open[0].prompt_tokens, 4);
  EXPECT_EQ(again->rows.back().tokens, 9) << "recomputed";
  d.run();
  EXPECT_EQ(d.token_count(1), 8);
  EXPECT_EQ(d.token_count(2), 8);
  EXPECT_EQ(d.tokens[2].front(), 5) << "no token twice";
  EXPECT_EQ(d.tokens[2].back(), 12);
}

TEST(Preemption, ADeterministicOneRepeatsItsStepsAndTellsNoTokenTwice) {
  SchedulerOptions o = small_options(/*blocks=*/4);
  o.deterministic = true;
  o.enable_prefix_caching = true;
  Driver d(o);
  ASSERT_TRUE(d.admit(make_request(1, 4, 8)).is_ok());
  ASSERT_TRUE(d.admit(make_request(2, 4, 8)).is_ok());
  while (d.scheduler.stats().preemptions_total == 0) ASSERT_TRUE(d.step());
  EXPECT_EQ(d.token_count(2), 5);
  EXPECT_EQ(d.scheduler.stats().waiting_tokens, 4) << "the prompt alone";
  std::optional<StepPlan> again;
  while (!again || again->open.empty()) again = d.step();
  EXPECT_EQ(again->open[0].tokens->size(), 4U) << "prefill ends where it did at first";
  EXPECT_EQ(d.token_count(2), 5);
  d.run();
  EXPECT_EQ(d.token_count(2), 8);
  EXPECT_EQ(d.tokens[2].front(), 5);
  EXPECT_EQ(d.tokens[2].back(), 12);
  EXPECT_EQ(d.scheduler.stats().generated_tokens_total, 16U);
  // What decode steps computed is no prefix of a prompt: the answer of request 1 with its prompt.
  Request longer = make_request(1, 4, 1);
  longer.id = 3;
  for (const TokenId token : d.tokens[1]) longer.prompt.push_back(token);
  ASSERT_TRUE(d.admit(longer).is_ok());
  const auto plan = d.step();
  EXPECT_EQ(plan->open[0].computed_tokens, 4);
  d.run();
}

TEST(Preemption, ThePreemptedFindItsBlocksInTheCache) {
  SchedulerOptions o = small_options(/*blocks=*/7);
  o.enable_prefix_caching = true;
  Driver d(o);
  ASSERT_TRUE(d.admit(make_request(1, 4, 8)).is_ok());
  ASSERT_TRUE(d.admit(make_request(2, 16, 8)).is_ok());
  int32_t cached = -1;
  while (d.scheduler.stats().preemptions_total == 0 && d.step()) {
  }
  while (cached < 0 && !d.scheduler.idle()) {
    const auto plan = d.step();
    if (!plan->open.empty()) cached = plan->open[0].computed_tokens;
  }
  EXPECT_GT(cached, 0);
  d.run();
}

TEST(Preemption, WaitsForPlansInFlightAndKeepsTheirTokens) {
  Driver d(small_options(/*blocks=*/4));
  ASSERT_TRUE(d.admit(make_request(1, 4, 8)).is_ok());
  ASSERT_TRUE(d.admit(make_request(2, 4, 8)).is_ok());
  for (int32_t i = 0; i < 4; ++i) ASSERT_TRUE(d.step());
  const auto named = d.plan();
  ASSERT_EQ(named->rows.size(), 2U);
  const auto none = d.plan();
  EXPECT_FALSE(none) << "the first needs a block of the second, which plan 5 still names";
  EXPECT_EQ(d.scheduler.stats().preemptions_total, 1U);
  EXPECT_EQ(d.scheduler.stats().blocks_used, 4);
  d.commit();
  EXPECT_EQ(d.token_count(2), 5) << "what plan 5 made is kept";
  EXPECT_EQ(d.scheduler.stats().blocks_used, 2);
  d.run();
  EXPECT_EQ(d.token_count(2), 8);
}

TEST(Preemption, APreemptedSequenceMayFinishInThePlanInFlight) {
  Driver d(small_options(/*blocks=*/4));
  ASSERT_TRUE(d.admit(make_request(1, 4, 8)).is_ok());
  ASSERT_TRUE(d.admit(make_request(2, 4, 8)).is_ok());
  for (int32_t i = 0; i < 4; ++i) ASSERT_TRUE(d.step());
  const auto named = d.plan();
  d.finish_at_next_row[named->rows[1].slot] = FinishReason::kStop;
  EXPECT_FALSE(d.plan());
  d.commit();
  EXPECT_EQ(d.finish(2), FinishReason::kStop);
  EXPECT_EQ(d.scheduler.stats().requests_waiting, 0);
  d.run();
}

TEST(Preemption, LowerPriorityGivesWayBeforeNewer) {
  Driver d(small_options(/*blocks=*/6));
  ASSERT_TRUE(d.admit(make_request(1, 4, 12)).is_ok());
  Request low = make_request(2, 4, 12);
  low.priority = 1;
  ASSERT_TRUE(d.admit(low).is_ok());
  ASSERT_TRUE(d.admit(make_request(3, 4, 12)).is_ok());
  while (d.scheduler.stats().preemptions_total == 0) ASSERT_TRUE(d.step());
  SchedulerTestAccess access(d.scheduler);
  ASSERT_EQ(access.waiting().size(), 1U);
  EXPECT_EQ(access.waiting()[0]->id, 2U);
  d.run();
}

TEST(Preemption, TheOldestIsNeverPreemptedAndNobodyMoreThanTwice) {
  Driver d(small_options(/*blocks=*/12));
  for (RequestId id = 1; id <= 6; ++id) {
    Request r = make_request(id, 4, 32);
    r.priority = id == 1 ? 9 : 0;
    ASSERT_TRUE(d.admit(r).is_ok());
  }
  int32_t most = 0;
  bool oldest_ran = false;
  while (!d.scheduler.idle()) {
    while (d.plan()) {
    }
    d.commit();
    SchedulerTestAccess access(d.scheduler);
    for (const Sequence* s : access.running()) {
      most = std::max(most, s->preemptions);
      if (s->id != 1) continue;
      oldest_ran = true;
      EXPECT_EQ(s->preemptions, 0) << "lowest priority, but oldest";
    }
  }
  EXPECT_TRUE(oldest_ran);
  EXPECT_EQ(most, 2) << "the pool is tight enough to go to the limit";
  for (RequestId id = 1; id <= 6; ++id) EXPECT_EQ(d.token_count(id), 32);
}

TEST(Preemption, AfterTheLastASequenceGetsAllItCanEverNeed) {
  SchedulerOptions o = small_options(/*blocks=*/8);
  o.preemptions_max = 1;
  Driver d(o);
  ASSERT_TRUE(d.admit(make_request(1, 4, 20)).is_ok());
  ASSERT_TRUE(d.admit(make_request(2, 4, 20)).is_ok());
  while (d.scheduler.stats().preemptions_total == 0) ASSERT_TRUE(d.step());
  std::optional<StepPlan> again;
  while (!again || again->open.empty()) {
    again = d.step();
    ASSERT_TRUE(again);
  }
  size_t blocks = 0;
  for (const AppendBlocks& a : again->append) {
    if (a.slot == again->open[0].slot) blocks += a.blocks.size();
  }
  EXPECT_EQ(blocks, 6U) << "24 tokens";
  d.run();
  EXPECT_EQ(d.scheduler.stats().preemptions_total, 1U);
}

TEST(Preemption, WhereNobodyMayBePreemptedAdmissionTakesAll) {
  SchedulerOptions o = small_options(/*blocks=*/8);
  o.preemptions_max = 0;
  Driver d(o);
  ASSERT_TRUE(d.admit(make_request(1, 4, 12)).is_ok());
  ASSERT_TRUE(d.admit(make_request(2, 4, 13)).is_ok());
  EXPECT_EQ(d.step()->open.size(), 1U) << "four blocks and five";
  d.run();
  EXPECT_EQ(d.scheduler.stats().preemptions_total, 0U);
}

TEST(Windows, GiveBackWhatLiesBeforeThem) {
  KvLayout layout = small_layout();
  layout.groups.push_back(layout.groups[0]);
  layout.groups[1].window_tokens = 6;
  SchedulerOptions o = small_options();
  o.blocks = {65, 9};
  o.max_num_batched_tokens = 8;
  Driver d(o, layout);
  ASSERT_TRUE(d.admit(make_request(1, 40, 20)).is_ok());
  SchedulerTestAccess access(d.scheduler);
  int32_t most = 0;
  while (!d.scheduler.idle()) {
    while (d.plan()) {
    }
    most = std::max(most, access.pool(1).used_count());
    d.commit();
    if (access.running().empty()) continue;
    const Sequence& s = *access.running()[0];
    EXPECT_EQ(s.groups[0].first, 0) << "the growing group keeps all";
    EXPECT_EQ(s.groups[1].first, std::max(0, s.computed - 6) / 4);
  }
  EXPECT_EQ(d.token_count(1), 20);
  EXPECT_LE(most, 6) << "a window of two blocks, and chunks of two in flight twice";
}

TEST(Windows, ALongPromptPassesThroughASmallPool) {
  KvLayout layout = small_layout();
  layout.groups[0].window_tokens = 4;
  SchedulerOptions o = small_options();
  o.blocks = {5};
  Driver d(o, layout);
  for (RequestId id = 1; id <= 3; ++id) ASSERT_TRUE(d.admit(make_request(id, 60, 4)).is_ok());
  d.run();
  for (RequestId id = 1; id <= 3; ++id) EXPECT_EQ(d.token_count(id), 4);
}

TEST(Windows, AHitContinuesFromTheWindowThatThePromptLeft) {
  KvLayout layout = small_layout();
  layout.groups.push_back(layout.groups[0]);
  layout.groups[1].window_tokens = 6;
  SchedulerOptions o = small_options();
  o.blocks = {65, 33};
  o.enable_prefix_caching = true;
  Driver d(o, layout);
  ASSERT_TRUE(d.admit(make_request(1, 27, 30)).is_ok());
  d.run();
  Request again = make_request(1, 27, 1);
  again.id = 2;
  ASSERT_TRUE(d.admit(again).is_ok());
  const auto plan = d.plan();
  EXPECT_EQ(plan->open[0].computed_tokens, 24);
  const auto window = std::ranges::find(plan->append, 1, &AppendBlocks::group);
  ASSERT_NE(window, plan->append.end());
  EXPECT_EQ(window->first, 4) << "blocks 4 and 5 hold the six tokens before position 24";
  EXPECT_EQ(window->blocks.size(), 2U);
}

}  // namespace
}  // namespace fathom
