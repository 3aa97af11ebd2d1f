// Continuous batching, chunked prefill, ends, and two plans in flight.
#include "sched/scheduler.h"

#include <gtest/gtest.h>

#include "driver.h"

namespace fathom {
namespace {

TEST(Scheduler, RunsOneRequestToItsLength) {
  Driver d(small_options());
  ASSERT_TRUE(d.admit(make_request(1, 6, 4)).is_ok());
  const auto first = d.plan();
  ASSERT_TRUE(first);
  EXPECT_EQ(first->number, 1U);
  ASSERT_EQ(first->open.size(), 1U);
  EXPECT_EQ(first->open[0].prompt_tokens, 6);
  EXPECT_EQ(first->open[0].computed_tokens, 0);
  EXPECT_EQ(first->open[0].tokens->size(), 6U);
  ASSERT_EQ(first->rows.size(), 1U);
  EXPECT_EQ(first->rows[0].kind, RowKind::kPrefill);
  EXPECT_EQ(first->rows[0].tokens, 6);
  EXPECT_TRUE(first->rows[0].sample);
  ASSERT_EQ(first->append.size(), 1U);
  EXPECT_EQ(first->append[0].first, 0);
  EXPECT_EQ(first->append[0].blocks.size(), 2U);
  d.run();
  EXPECT_EQ(d.started[1].prompt_tokens, 6);
  EXPECT_EQ(d.token_count(1), 4);
  EXPECT_EQ(d.finish(1), FinishReason::kLength);
  const EngineStats stats = d.scheduler.stats();
  EXPECT_EQ(stats.blocks_used, 0);
  EXPECT_EQ(stats.prompt_tokens_total, 6U);
  EXPECT_EQ(stats.generated_tokens_total, 4U);
}

TEST(Scheduler, CountsStepsTokensAndTheTimeInTheQueue) {
  SchedulerOptions o = small_options();
  o.max_num_seqs = 1;
  o.speculative_tokens = 1;
  Driver d(o);
  ASSERT_TRUE(d.admit(make_request(1, 6, 3)).is_ok());
  ASSERT_TRUE(d.admit(make_request(2, 4, 1)).is_ok());
  ASSERT_TRUE(d.plan());
  StepResult prefill = d.result();
  prefill.duration_us = 7'000;
  d.commit(std::move(prefill));
  d.now_us = 2'500;
  ASSERT_TRUE(d.plan());
  StepResult verify = d.result(/*accepted=*/2);
  verify.rows[0].drafted = 1;
  d.commit(std::move(verify));
  d.run();
  EXPECT_EQ(d.started[1].queued_us, 0);
  EXPECT_EQ(d.started[2].queued_us, 2'500) << "the one slot was taken";
  const EngineStats stats = d.scheduler.stats();
  EXPECT_EQ(stats.drafting_rows_total, 1U);
  EXPECT_EQ(stats.steps_total, 3U);
  EXPECT_EQ(stats.step_tokens.sum, 6 + 2 + 4);
  EXPECT_EQ(stats.step_tokens.counts[1], 1U) << "the verify row's two tokens";
  EXPECT_EQ(stats.step_seconds.counts[6], 1U) << "7 ms lie between 6 and 8";
  EXPECT_DOUBLE_EQ(stats.step_seconds.sum, 0.007);
}

TEST(Scheduler, PlansADecodeWhileThePrefillIsInFlight) {
  Driver d(small_options());
  ASSERT_TRUE(d.admit(make_request(1, 4, 4)).is_ok());
  ASSERT_TRUE(d.plan());
  const auto second = d.plan();
  ASSERT_TRUE(second);
  ASSERT_EQ(second->rows.size(), 1U);
  EXPECT_EQ(second->rows[0].kind, RowKind::kDecode);
  ASSERT_EQ(second->append.size(), 1U) << "the first decode writes position 4, in a new block";
  EXPECT_FALSE(d.plan()) << "two plans are in flight";
  EXPECT_EQ(d.scheduler.plans_in_flight(), 2);
}

TEST(Scheduler, DecodesComeFirstAndPrefillTakesWholeBlocksOfTheRest) {
  SchedulerOptions o = small_options();
  o.max_num_batched_tokens = 10;
  Driver d(o);
  ASSERT_TRUE(d.admit(make_request(1, 4, 8)).is_ok());
  d.step();
  ASSERT_TRUE(d.admit(make_request(2, 14, 4)).is_ok());
  const auto mixed = d.step();
  ASSERT_EQ(mixed->rows.size(), 2U);
  EXPECT_EQ(mixed->rows[0].kind, RowKind::kDecode);
  EXPECT_EQ(mixed->rows[1].kind, RowKind::kPrefill);
  EXPECT_EQ(mixed->rows[1].tokens, 8) << "nine tokens are left: two whole blocks";
  EXPECT_FALSE(mixed->rows[1].sample);
  const auto rest = d.step();
  EXPECT_EQ(rest->rows[1].tokens, 6) << "the rest of a prompt may be less than a block's multiple";
  EXPECT_TRUE(rest->rows[1].sample);
}

TEST(Scheduler, NeverPlansAPrefillBelowOneBlockUnlessItEndsThePrompt) {
  SchedulerOptions o = small_options();
  o.max_num_batched_tokens = 6;
  Driver d(o);
  for (RequestId id = 1; id <= 3; ++id) {
    ASSERT_TRUE(d.admit(make_request(id, 2, 9)).is_ok());
  }
  d.step();
  ASSERT_TRUE(d.admit(make_request(4, 5, 4)).is_ok());
  const auto plan = d.step();
  EXPECT_EQ(rows_of(*plan, RowKind::kDecode), 3);
  EXPECT_EQ(rows_of(*plan, RowKind::kPrefill), 0) << "three tokens are left, a block is four";
  ASSERT_TRUE(d.admit(make_request(5, 3, 4)).is_ok());
  d.scheduler.cancel(4);
  EXPECT_EQ(rows_of(*d.step(), RowKind::kPrefill), 1) << "a whole prompt of three fits";
}

TEST(Scheduler, PrefillChunksOfOneSequenceGoBackToBack) {
  SchedulerOptions o = small_options();
  o.max_num_batched_tokens = 8;
  Driver d(o);
  ASSERT_TRUE(d.admit(make_request(1, 20, 4)).is_ok());
  EXPECT_EQ(d.plan()->rows[0].tokens, 8);
  const auto second = d.plan();
  EXPECT_EQ(second->rows[0].tokens, 8);
  EXPECT_TRUE(second->open.empty());
  ASSERT_EQ(second->append.size(), 1U);
  EXPECT_EQ(second->append[0].first, 2);
  d.run();
  EXPECT_EQ(d.token_count(1), 4);
}

TEST(Scheduler, DropsTheSurplusRowOfASequenceThatFinishedMeanwhile) {
  Driver d(small_options());
  ASSERT_TRUE(d.admit(make_request(1, 4, 9)).is_ok());
  const auto first = d.plan();
  const SlotId slot = first->rows[0].slot;
  ASSERT_TRUE(d.plan());
  d.finish_at_next_row[slot] = FinishReason::kStop;
  d.commit();
  EXPECT_EQ(d.finish(1), FinishReason::kStop);
  EXPECT_GT(d.scheduler.stats().blocks_used, 0) << "plan 2 still names its blocks";
  ASSERT_TRUE(d.admit(make_request(2, 4, 1)).is_ok());
  const auto third = d.plan();
  ASSERT_TRUE(third);
  ASSERT_EQ(third->open.size(), 1U);
  EXPECT_NE(third->open[0].slot, slot) << "plan 2 still names the slot";
  EXPECT_TRUE(third->close.empty());
  d.commit();
  ASSERT_TRUE(d.admit(make_request(3, 4, 1)).is_ok());
  const auto fourth = d.plan();
  ASSERT_TRUE(fourth);
  EXPECT_EQ(fourth->close, std::vector<SlotId>{slot});
  ASSERT_EQ(fourth->open.size(), 1U);
  EXPECT_EQ(fourth->open[0].slot, slot) << "closed and opened again in one plan";
  d.run();
  EXPECT_EQ(d.token_count(1), 1);
}

TEST(Scheduler, PlansNothingPastTheLastToken) {
  Driver d(small_options());
  ASSERT_TRUE(d.admit(make_request(1, 4, 2)).is_ok());
  ASSERT_TRUE(d.plan());
  ASSERT_TRUE(d.plan());
  d.commit();
  EXPECT_FALSE(d.plan()) << "the second token ends it and is in flight";
  d.commit();
  EXPECT_EQ(d.finish(1), FinishReason::kLength);
  EXPECT_TRUE(d.scheduler.idle());
}

TEST(Scheduler, VerifyRowsReserveTheirUpperBoundAndComeBackOnCommit) {
  SchedulerOptions o = small_options();
  o.speculative_tokens = 3;
  Driver d(o);
  ASSERT_TRUE(d.admit(make_request(1, 4, 9)).is_ok());
  ASSERT_TRUE(d.plan());
  const auto verify = d.plan();
  EXPECT_EQ(verify->rows[0].kind, RowKind::kVerify);
  EXPECT_EQ(verify->rows[0].tokens, 4);
  d.commit();
  const auto bounded = d.plan();
  EXPECT_EQ(bounded->rows[0].tokens, 4) << "1 + 4 in flight: four of nine tokens are left";
  d.commit(/*accepted=*/2);
  const auto more = d.plan();
  ASSERT_TRUE(more) << "two were rejected, so there is room again";
  EXPECT_EQ(more->rows[0].tokens, 2);
  d.run();
  EXPECT_EQ(d.token_count(1), 9);
}

TEST(Scheduler, SlotsBoundWhatRuns) {
  SchedulerOptions o = small_options();
  o.max_num_seqs = 2;
  Driver d(o);
  for (RequestId id = 1; id <= 3; ++id) ASSERT_TRUE(d.admit(make_request(id, 4, 3)).is_ok());
  EXPECT_EQ(d.plan()->rows.size(), 2U);
  EXPECT_EQ(d.scheduler.stats().requests_waiting, 1);
  d.run();
  EXPECT_EQ(d.finish_order.size(), 3U);
}

TEST(Scheduler, FailAllEndsEveryRequestOnce) {
  SchedulerOptions o = small_options();
  o.max_num_seqs = 1;
  Driver d(o);
  ASSERT_TRUE(d.admit(make_request(1, 4, 9)).is_ok());
  ASSERT_TRUE(d.admit(make_request(2, 4, 9)).is_ok());
  ASSERT_TRUE(d.plan());
  d.scheduler.fail_all(unavailable("a rank failed"));
  d.take_events();
  EXPECT_EQ(d.finish(1), FinishReason::kError);
  EXPECT_EQ(d.finish(2), FinishReason::kError);
  EXPECT_EQ(d.finished[2].status.code(), Code::kUnavailable);
  EXPECT_TRUE(d.scheduler.idle());
  EXPECT_FALSE(d.admit(make_request(3, 4)).is_ok());
}

TEST(Scheduler, KeepsPromptLogprobsOnceAcrossAPreemption) {
  SchedulerOptions o = small_options(6);
  o.max_num_batched_tokens = 11;
  Driver d(o);
  ASSERT_TRUE(d.admit(make_request(1, 11, 12)).is_ok());
  d.step();
  Request r = make_request(2, 12, 4);
  r.sampling.prompt_logprobs = true;
  ASSERT_TRUE(d.admit(r).is_ok());
  std::map<SlotId, int32_t> position;
  std::vector<float> reported;
  int32_t computed = 0;
  while (d.finish_order.size() < 2) {
    const auto plan = d.plan();
    ASSERT_TRUE(plan);
    for (const OpenSlot& open : plan->open) position[open.slot] = 0;
    StepResult result = d.result();
    for (size_t i = 0; i < result.rows.size(); ++i) {
      if (plan->rows[i].kind != RowKind::kPrefill) continue;
      int32_t& at = position[plan->rows[i].slot];
      for (int32_t end = at + plan->rows[i].tokens; at < end; ++at) {
        if (at + 1 == 12) continue;
        result.rows[i].prompt_logprobs.push_back({static_cast<float>(at + 1), {}});
        ++computed;
      }
    }
    for (const RequestEvent& e : d.commit(std::move(result))) {
      const auto* t = std::get_if<TokensEvent>(&e.event);
      if (e.id != 2 || t == nullptr) continue;
      for (const TokenLogprobs& l : t->prompt_logprobs) reported.push_back(l.chosen);
    }
  }
  EXPECT_EQ(d.scheduler.stats().preemptions_total, 1U);
  EXPECT_EQ(computed, 8 + 11) << "preempted after two chunks, then computed again";
  ASSERT_EQ(reported.size(), 11U);
  for (size_t i = 0; i < reported.size(); ++i) EXPECT_EQ(reported[i], static_cast<float>(i + 1));
}

}  // namespace
}  // namespace fathom
