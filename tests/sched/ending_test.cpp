// Cancels and deadlines in every phase of a request.
#include <gtest/gtest.h>

#include "driver.h"

namespace fathom {
namespace {

bool plans_slot(const StepPlan& plan, SlotId slot) {
  for (const PlanRow& row : plan.rows) {
    if (row.slot == slot) return true;
  }
  return false;
}

TEST(Cancel, WhileWaiting) {
  SchedulerOptions o = small_options();
  o.max_num_seqs = 1;
  Driver d(o);
  ASSERT_TRUE(d.admit(make_request(1, 4, 2)).is_ok());
  ASSERT_TRUE(d.admit(make_request(2, 4, 2)).is_ok());
  ASSERT_TRUE(d.plan());
  d.scheduler.cancel(2);
  d.take_events();
  EXPECT_EQ(d.finish(2), FinishReason::kCancelled);
  EXPECT_TRUE(d.finished[2].status.is_ok());
  EXPECT_FALSE(d.started.contains(2));
  EXPECT_EQ(d.scheduler.stats().waiting_tokens, 0);
  d.run();
  EXPECT_EQ(d.finish_order.size(), 2U);
}

TEST(Cancel, BeforeAnyPlan) {
  Driver d(small_options());
  ASSERT_TRUE(d.admit(make_request(1, 4)).is_ok());
  d.scheduler.cancel(1);
  EXPECT_FALSE(d.plan());
  d.take_events();
  EXPECT_EQ(d.finish(1), FinishReason::kCancelled);
  EXPECT_TRUE(d.scheduler.idle());
}

TEST(Cancel, DuringAPrefillInFlight) {
  SchedulerOptions o = small_options();
  o.max_num_batched_tokens = 8;
  Driver d(o);
  ASSERT_TRUE(d.admit(make_request(1, 24, 4)).is_ok());
  const SlotId slot = d.plan()->rows[0].slot;
  d.plan();
  d.scheduler.cancel(1);
  ASSERT_TRUE(d.admit(make_request(2, 8, 4)).is_ok());
  EXPECT_EQ(d.scheduler.stats().blocks_used, 4) << "two plans still write to them";
  d.commit();
  EXPECT_EQ(d.finish(1), FinishReason::kCancelled);
  const auto third = d.plan();
  EXPECT_FALSE(plans_slot(*third, slot));
  d.commit();
  EXPECT_EQ(d.scheduler.stats().blocks_used, 2) << "the second's";
  d.run();
  EXPECT_EQ(d.token_count(1), 0);
}

TEST(Cancel, DuringDecodesInFlight) {
  Driver d(small_options());
  ASSERT_TRUE(d.admit(make_request(1, 4, 20)).is_ok());
  ASSERT_TRUE(d.admit(make_request(2, 4, 20)).is_ok());
  d.step();
  const SlotId slot = d.plan()->rows[0].slot;
  d.plan();
  const int32_t before = d.token_count(1);
  d.scheduler.cancel(1);
  d.commit();
  EXPECT_EQ(d.token_count(1), before) << "nothing after the end";
  for (int32_t i = 0; i < 5; ++i) {
    const auto plan = d.plan();
    if (plan) {
      EXPECT_FALSE(plans_slot(*plan, slot));
    }
    d.commit();
  }
  d.run();
  EXPECT_EQ(d.token_count(2), 20);
}

TEST(Cancel, WhilePreempted) {
  Driver d(small_options(/*blocks=*/4));
  ASSERT_TRUE(d.admit(make_request(1, 4, 8)).is_ok());
  ASSERT_TRUE(d.admit(make_request(2, 4, 8)).is_ok());
  while (d.scheduler.stats().preemptions_total == 0) ASSERT_TRUE(d.step());
  d.scheduler.cancel(2);
  d.run();
  EXPECT_EQ(d.finish(2), FinishReason::kCancelled);
  EXPECT_EQ(d.token_count(1), 8);
}

TEST(Cancel, WhileBeingPreempted) {
  Driver d(small_options(/*blocks=*/4));
  ASSERT_TRUE(d.admit(make_request(1, 4, 8)).is_ok());
  ASSERT_TRUE(d.admit(make_request(2, 4, 8)).is_ok());
  for (int32_t i = 0; i < 4; ++i) ASSERT_TRUE(d.step());
  ASSERT_TRUE(d.plan());
  EXPECT_FALSE(d.plan());
  d.scheduler.cancel(2);
  d.commit();
  EXPECT_EQ(d.scheduler.stats().requests_waiting, 0);
  d.run();
  EXPECT_EQ(d.token_count(2), 4);
}

TEST(Cancel, OfTheEndedAndTheUnknownIsIgnored) {
  Driver d(small_options());
  ASSERT_TRUE(d.admit(make_request(1, 4, 9)).is_ok());
  const auto first = d.plan();
  d.plan();
  d.finish_at_next_row[first->rows[0].slot] = FinishReason::kStop;
  d.commit();
  d.scheduler.cancel(1);
  d.scheduler.cancel(1);
  d.scheduler.cancel(77);
  d.run();
  d.scheduler.cancel(1);
  d.take_events();
  EXPECT_EQ(d.finish(1), FinishReason::kStop);
  EXPECT_EQ(d.finish_order.size(), 1U);
}

TEST(Deadline, EndsARequestInTheQueue) {
  SchedulerOptions o = small_options();
  o.max_num_seqs = 1;
  Driver d(o);
  ASSERT_TRUE(d.admit(make_request(1, 4, 20)).is_ok());
  Request r = make_request(2, 4, 2);
  r.deadline_us = 100;
  ASSERT_TRUE(d.admit(r).is_ok());
  EXPECT_EQ(d.scheduler.next_deadline_us(), 100);
  d.now_us = 99;
  d.step();
  EXPECT_FALSE(d.finish(2));
  d.now_us = 100;
  d.step();
  EXPECT_EQ(d.finish(2), FinishReason::kDeadline);
  EXPECT_EQ(d.finished[2].status.code(), Code::kDeadlineExceeded);
  EXPECT_EQ(d.finished[2].status.reason(), "deadline_exceeded");
  EXPECT_FALSE(d.scheduler.next_deadline_us());
  d.run();
}

TEST(Deadline, EndsARunningRequestAfterTheTokensOfTheSameCommit) {
  Driver d(small_options());
  Request r = make_request(1, 4, 20);
  r.deadline_us = 100;
  ASSERT_TRUE(d.admit(r).is_ok());
  d.step();
  d.plan();
  d.plan();
  d.now_us = 100;
  d.commit();
  EXPECT_EQ(d.token_count(1), 2);
  EXPECT_EQ(d.finish(1), FinishReason::kDeadline);
  EXPECT_FALSE(d.plan());
  d.commit();
  EXPECT_TRUE(d.scheduler.idle());
}

TEST(Deadline, IsInNoPlanMadeAfterIt) {
  Driver d(small_options());
  Request r = make_request(1, 4, 20);
  r.deadline_us = 100;
  ASSERT_TRUE(d.admit(r).is_ok());
  d.now_us = 100;
  EXPECT_FALSE(d.plan());
  EXPECT_TRUE(d.scheduler.idle());
  d.take_events();
  EXPECT_EQ(d.finish(1), FinishReason::kDeadline);
}

TEST(Deadline, ExpireWorksWithoutPlans) {
  Driver d(small_options());
  Request r = make_request(1, 4, 20);
  r.deadline_us = 100;
  ASSERT_TRUE(d.admit(r).is_ok());
  d.scheduler.expire(101);
  d.take_events();
  EXPECT_EQ(d.finish(1), FinishReason::kDeadline);
}

}  // namespace
}  // namespace fathom
