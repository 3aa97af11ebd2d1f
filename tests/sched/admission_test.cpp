// Limits of admission, each at the limit and one past it, and what a prefix-cache hit saves.
#include <gtest/gtest.h>

#include <functional>

#include "driver.h"

namespace fathom {
namespace {

TEST(Admission, PromptAndOneTokenMustFitTheModel) {
  Driver d(small_options());
  EXPECT_TRUE(d.admit(make_request(1, 63)).is_ok());
  const Status s = d.admit(make_request(2, 64));
  EXPECT_EQ(s.code(), Code::kInvalidArgument);
  EXPECT_EQ(s.subject(), "prompt");
  EXPECT_EQ(s.reason(), "context_length_exceeded");
  d.run();
  EXPECT_EQ(d.token_count(1), 1) << "max_tokens is cut to what the model takes";
}

TEST(Admission, PromptAndOneTokenMustFitThePool) {
  Driver d(small_options(/*blocks=*/3));
  EXPECT_EQ(d.scheduler.max_model_len(), 12);
  EXPECT_TRUE(d.admit(make_request(1, 11)).is_ok());
  EXPECT_EQ(d.admit(make_request(2, 12)).reason(), "context_length_exceeded");
  d.run();
  EXPECT_EQ(d.finish(1), FinishReason::kLength);
}

TEST(Admission, NamesTheFieldThatIsWrong) {
  Driver d(small_options());
  EXPECT_EQ(d.admit(make_request(0, 4)).subject(), "id");
  EXPECT_EQ(d.admit(make_request(1, 0)).subject(), "prompt");
  EXPECT_EQ(d.admit(make_request(1, 4, 0)).subject(), "max_tokens");
  EXPECT_TRUE(d.admit(make_request(1, 4)).is_ok());
  EXPECT_EQ(d.admit(make_request(1, 4)).code(), Code::kAlreadyExists);
}

TEST(Admission, QueueIsBoundedInRequests) {
  SchedulerOptions o = small_options();
  o.queued_requests_max = 2;
  Driver d(o);
  EXPECT_TRUE(d.admit(make_request(1, 4)).is_ok());
  EXPECT_TRUE(d.admit(make_request(2, 4)).is_ok());
  const Status s = d.admit(make_request(3, 4));
  EXPECT_EQ(s.code(), Code::kResourceExhausted);
  EXPECT_EQ(s.reason(), "queue_full");
  ASSERT_TRUE(d.plan());
  EXPECT_TRUE(d.admit(make_request(3, 4)).is_ok()) << "those that run wait no more";
}

TEST(Admission, QueueIsBoundedInTokens) {
  SchedulerOptions o = small_options();
  o.queued_tokens_max = 20;
  Driver d(o);
  EXPECT_TRUE(d.admit(make_request(1, 12)).is_ok());
  EXPECT_TRUE(d.admit(make_request(2, 8)).is_ok());
  EXPECT_EQ(d.admit(make_request(3, 1)).reason(), "queue_full");
}

TEST(Admission, AnEmptyQueueTakesAnyOneRequest) {
  SchedulerOptions o = small_options();
  o.queued_tokens_max = 20;
  Driver d(o);
  EXPECT_TRUE(d.admit(make_request(1, 21)).is_ok());
}

// Blocks that are left when a second request of `prompt` tokens (answer 4) starts, or does not.
bool second_starts(const std::function<void(SchedulerOptions&)>& change, int32_t blocks) {
  SchedulerOptions o = small_options(blocks);
  change(o);
  Driver d(o);
  EXPECT_TRUE(d.admit(make_request(1, 8, 4)).is_ok());
  d.step();
  const int32_t held = static_cast<int32_t>(d.scheduler.stats().blocks_used);
  EXPECT_EQ(held, 2);
  EXPECT_TRUE(d.admit(make_request(2, 8, 40)).is_ok());
  const auto plan = d.plan();
  return plan && !plan->open.empty();
}

TEST(Admission, NeedsThePromptsBlocks) {
  const auto as_is = [](SchedulerOptions&) {};
  // One for the first's next token, which decodes first, and two for the second's prompt.
  EXPECT_TRUE(second_starts(as_is, 5));
  EXPECT_FALSE(second_starts(as_is, 4));
}

TEST(Admission, NeedsAMarginForTheAnswer) {
  const auto margin = [](SchedulerOptions& o) { o.answer_margin_tokens = 5; };
  // 8 + 5 tokens are four blocks. The first's own margin is its answer of 4: the block it takes.
  EXPECT_TRUE(second_starts(margin, 7));
  EXPECT_FALSE(second_starts(margin, 6));
}

TEST(Admission, LeavesAShareFree) {
  const auto share = [](SchedulerOptions& o) { o.free_percent = 20; };
  // 3 + 2 blocks, and a fifth of the pool: 7 leave 2, which is ceil(1.4).
  EXPECT_TRUE(second_starts(share, 7));
  EXPECT_FALSE(second_starts(share, 6));
}

TEST(Admission, ARequestAloneNeedsNoReserve) {
  SchedulerOptions o = small_options(/*blocks=*/4);
  o.free_percent = 50;
  o.answer_margin_tokens = 100;
  Driver d(o);
  ASSERT_TRUE(d.admit(make_request(1, 15, 1)).is_ok());
  ASSERT_TRUE(d.plan());
  d.run();
  EXPECT_EQ(d.finish(1), FinishReason::kLength);
}

TEST(Admission, BlocksPromisedToAPrefillAreNotPromisedTwice) {
  SchedulerOptions o = small_options(/*blocks=*/10);
  o.max_num_batched_tokens = 8;
  Driver d(o);
  ASSERT_TRUE(d.admit(make_request(1, 28, 1)).is_ok());
  d.step();
  EXPECT_EQ(d.scheduler.stats().blocks_used, 2) << "chunk by chunk";
  ASSERT_TRUE(d.admit(make_request(2, 16, 1)).is_ok());
  for (int32_t i = 0; i < 2; ++i) EXPECT_TRUE(d.step()->open.empty());
  d.run();
  EXPECT_EQ(d.scheduler.stats().preemptions_total, 0U);
}

TEST(Admission, WaitingRequestsHoldNoBlocks) {
  SchedulerOptions o = small_options(/*blocks=*/3);
  Driver d(o);
  ASSERT_TRUE(d.admit(make_request(1, 8, 2)).is_ok());
  ASSERT_TRUE(d.admit(make_request(2, 8, 2)).is_ok());
  ASSERT_TRUE(d.plan());
  EXPECT_EQ(d.scheduler.stats().blocks_used, 2);
  EXPECT_EQ(d.scheduler.stats().requests_waiting, 1);
  EXPECT_EQ(d.scheduler.stats().waiting_tokens, 8);
  d.run();
}

TEST(Admission, PriorityGoesFirstAndArrivalBreaksTies) {
  SchedulerOptions o = small_options();
  o.max_num_seqs = 1;
  Driver d(o);
  for (RequestId id = 1; id <= 4; ++id) {
    Request r = make_request(id, 4, 1);
    r.priority = id == 3 ? 0 : 1;
    ASSERT_TRUE(d.admit(r).is_ok());
  }
  d.run();
  EXPECT_EQ(d.finish_order, (std::vector<RequestId>{3, 1, 2, 4}));
}

TEST(Admission, ALowPriorityIsNotOvertakenForEver) {
  SchedulerOptions o = small_options();
  o.max_num_seqs = 1;
  o.priority_step_us = 1000;
  Driver d(o);
  Request low = make_request(1, 4, 1);
  low.priority = 1;
  ASSERT_TRUE(d.admit(low).is_ok());
  d.now_us = 1000;
  ASSERT_TRUE(d.admit(make_request(2, 4, 1)).is_ok());
  d.run();
  EXPECT_EQ(d.finish_order, (std::vector<RequestId>{1, 2})) << "a step later is a level less";
}

TEST(Admission, PenaltySlotsAreBoundedAndOthersPass) {
  SchedulerOptions o = small_options();
  o.penalty_slots = 1;
  Driver d(o);
  for (RequestId id = 1; id <= 3; ++id) {
    Request r = make_request(id, 4, 3);
    if (id <= 2) r.sampling.presence_penalty = 1.0F;
    ASSERT_TRUE(d.admit(r).is_ok());
  }
  EXPECT_EQ(d.plan()->open.size(), 2U) << "1 and 3";
  EXPECT_EQ(d.scheduler.stats().requests_waiting, 1);
  d.run();
  EXPECT_EQ(d.finish_order.back(), 2U);
}

TEST(Admission, WithoutPenaltySlotsPenaltiesAreRefused) {
  SchedulerOptions o = small_options();
  o.penalty_slots = 0;
  Driver d(o);
  Request r = make_request(1, 4);
  r.sampling.repetition_penalty = 1.2F;
  EXPECT_EQ(d.admit(r).subject(), "penalties");
}

SchedulerOptions cached_options(int32_t blocks = 64) {
  SchedulerOptions o = small_options(blocks);
  o.enable_prefix_caching = true;
  return o;
}

Request same_prompt(RequestId id, int32_t prompt, int32_t max_tokens = 1) {
  Request r = make_request(1, prompt, max_tokens);
  r.id = id;
  return r;
}

TEST(Admission, APrefixHitIsSkipped) {
  Driver d(cached_options());
  ASSERT_TRUE(d.admit(same_prompt(1, 11)).is_ok());
  d.run();
  ASSERT_TRUE(d.admit(same_prompt(2, 11)).is_ok());
  const auto plan = d.plan();
  EXPECT_EQ(plan->open[0].computed_tokens, 8);
  EXPECT_EQ(plan->rows[0].tokens, 3);
  ASSERT_EQ(plan->append.size(), 2U) << "the hit's blocks, and a new one";
  EXPECT_EQ(plan->append[0].first, 0);
  EXPECT_EQ(plan->append[0].blocks.size(), 2U);
  EXPECT_EQ(plan->append[1].first, 2);
  d.run();
  EXPECT_EQ(d.started[2].cached_tokens, 8);
  EXPECT_EQ(d.scheduler.stats().prefix_hit_tokens_total, 8U);
}

TEST(Admission, AHitLeavesAtLeastOneTokenToCompute) {
  Driver d(cached_options());
  ASSERT_TRUE(d.admit(same_prompt(1, 8)).is_ok());
  d.run();
  ASSERT_TRUE(d.admit(same_prompt(2, 8)).is_ok());
  const auto plan = d.plan();
  EXPECT_EQ(plan->open[0].computed_tokens, 4);
  EXPECT_EQ(plan->rows[0].tokens, 4);
}

TEST(Admission, OnlyCommittedBlocksAreShared) {
  Driver d(cached_options());
  ASSERT_TRUE(d.admit(same_prompt(1, 11, 9)).is_ok());
  ASSERT_TRUE(d.plan());
  ASSERT_TRUE(d.admit(same_prompt(2, 11)).is_ok());
  EXPECT_TRUE(d.plan()->open.empty()) << "the first's prefill is in flight: its blocks will come";
  d.commit();
  EXPECT_EQ(d.plan()->open[0].computed_tokens, 8) << "now it is committed, and still running";
  d.run();
}

TEST(Admission, ChoicesOfOnePromptComputeItOnce) {
  SchedulerOptions o = cached_options();
  o.max_num_batched_tokens = 8;
  Driver d(o);
  constexpr int32_t kChoices = 4;
  for (RequestId id = 1; id <= kChoices; ++id) {
    ASSERT_TRUE(d.admit(same_prompt(id, 22, 3)).is_ok());
  }
  ASSERT_TRUE(d.admit(make_request(9, 6, 1)).is_ok());
  d.run();
  EXPECT_EQ(d.started[1].cached_tokens, 0);
  for (RequestId id = 2; id <= kChoices; ++id) EXPECT_EQ(d.started[id].cached_tokens, 20) << id;
  EXPECT_EQ(d.scheduler.stats().prefix_hit_tokens_total, 60U);
  EXPECT_EQ(d.finish_order.front(), 9U) << "another prompt passes those that wait";
}

TEST(Admission, AChoiceGoesOnWhenTheOneItWaitedForLeaves) {
  SchedulerOptions o = cached_options();
  o.max_num_batched_tokens = 8;
  Driver d(o);
  ASSERT_TRUE(d.admit(same_prompt(1, 22, 3)).is_ok());
  ASSERT_TRUE(d.admit(same_prompt(2, 22, 3)).is_ok());
  d.step();
  ASSERT_TRUE(d.plan());
  d.scheduler.cancel(1);
  const auto next = d.plan();
  ASSERT_EQ(next->open.size(), 1U);
  EXPECT_EQ(next->open[0].computed_tokens, 8) << "what had been committed is not computed again";
  d.run();
  EXPECT_EQ(d.token_count(2), 3);
}

TEST(Admission, APromptOfOneBlockWaitsForNobody) {
  Driver d(cached_options());
  ASSERT_TRUE(d.admit(same_prompt(1, 4)).is_ok());
  ASSERT_TRUE(d.admit(same_prompt(2, 4)).is_ok());
  EXPECT_EQ(d.plan()->open.size(), 2U);
}

TEST(Admission, TheQueueIsBoundedInTime) {
  SchedulerOptions o = small_options();
  o.max_num_seqs = 1;
  o.queued_us_max = 1'000;
  Driver d(o);
  ASSERT_TRUE(d.admit(make_request(1, 4, 9)).is_ok());
  ASSERT_TRUE(d.admit(make_request(2, 4, 1)).is_ok());
  ASSERT_TRUE(d.plan());
  EXPECT_EQ(d.scheduler.next_deadline_us(), 1'000);
  d.now_us = 999;
  d.commit();
  EXPECT_FALSE(d.finish(2));
  d.now_us = 1'000;
  ASSERT_TRUE(d.plan());
  d.take_events();
  ASSERT_EQ(d.finish(2), FinishReason::kError);
  EXPECT_EQ(d.finished[2].status.code(), Code::kUnavailable);
  EXPECT_EQ(d.finished[2].status.reason(), "queue_timeout");
  EXPECT_FALSE(d.finish(1)) << "it runs: its time in the queue is over";
  EXPECT_FALSE(d.scheduler.next_deadline_us());
  d.run();
  EXPECT_EQ(d.token_count(1), 9);
}

TEST(Admission, OnePromptTakesAtMostItsChunkOfAStep) {
  SchedulerOptions o = small_options();
  o.max_num_batched_tokens = 24;
  o.prefill_chunk_tokens_max = 11;
  Driver d(o);
  ASSERT_TRUE(d.admit(make_request(1, 30, 1)).is_ok());
  ASSERT_TRUE(d.admit(make_request(2, 9, 1)).is_ok());
  const auto plan = d.step();
  ASSERT_EQ(plan->rows.size(), 2U);
  EXPECT_EQ(plan->rows[0].tokens, 8) << "whole blocks";
  EXPECT_EQ(plan->rows[1].tokens, 9) << "the short one finds room beside it";
  d.run();
  EXPECT_EQ(d.token_count(1), 1);
}

TEST(Admission, LogprobsOfPromptsHaveABoundInAStep) {
  SchedulerOptions o = small_options();
  o.max_num_batched_tokens = 64;
  o.prompt_logprob_tokens_max = 13;
  Driver d(o);
  for (RequestId id : {1, 2}) {
    Request r = make_request(id, 9, 2);
    r.sampling.prompt_logprobs = true;
    ASSERT_TRUE(d.admit(r).is_ok());
  }
  ASSERT_TRUE(d.admit(make_request(3, 20, 1)).is_ok());
  const auto plan = d.step();
  ASSERT_EQ(plan->rows.size(), 3U);
  EXPECT_EQ(plan->rows[0].tokens, 9);
  EXPECT_EQ(plan->rows[1].tokens, 4) << "one block of the second prompt, no more";
  EXPECT_EQ(plan->rows[2].tokens, 20) << "who wants none has the budget that is left";
  d.run();
  EXPECT_EQ(d.token_count(1), 2);
  EXPECT_EQ(d.token_count(2), 2);
  EXPECT_EQ(d.token_count(3), 1);
}

TEST(Admission, TheAnswersBlocksAreSharedToo) {
  Driver d(cached_options());
  ASSERT_TRUE(d.admit(same_prompt(1, 6, 8)).is_ok());
  d.run();
  Request next = same_prompt(2, 6);
  next.prompt.insert(next.prompt.end(), d.tokens[1].begin(), d.tokens[1].end());
  ASSERT_TRUE(d.admit(next).is_ok());
  EXPECT_EQ(d.plan()->open[0].computed_tokens, 12) << "13 of 14 tokens were computed: 3 blocks";
}

TEST(Admission, OptOutsNeitherReadNorFillTheCache) {
  Driver d(cached_options());
  Request quiet = same_prompt(1, 11);
  quiet.cache_prefix = false;
  ASSERT_TRUE(d.admit(quiet).is_ok());
  d.run();
  EXPECT_EQ(d.scheduler.stats().blocks_cached, 0);
  ASSERT_TRUE(d.admit(same_prompt(2, 11)).is_ok());
  d.run();
  EXPECT_EQ(d.started[2].cached_tokens, 0);
  quiet.id = 3;
  ASSERT_TRUE(d.admit(quiet).is_ok());
  d.run();
  EXPECT_EQ(d.started[3].cached_tokens, 0);
}

TEST(Admission, PromptLogprobsComputeTheWholePrompt) {
  Driver d(cached_options());
  ASSERT_TRUE(d.admit(same_prompt(1, 11)).is_ok());
  d.run();
  Request r = same_prompt(2, 11);
  r.sampling.prompt_logprobs = true;
  ASSERT_TRUE(d.admit(r).is_ok());
  EXPECT_EQ(d.plan()->open[0].computed_tokens, 0);
}

TEST(Admission, AHitMakesRoomWhereBlocksAreScarce) {
  SchedulerOptions o = cached_options(/*blocks=*/5);
  Driver d(o);
  ASSERT_TRUE(d.admit(same_prompt(1, 11, 5)).is_ok());
  d.step();
  ASSERT_TRUE(d.admit(same_prompt(2, 11, 1)).is_ok());
  const auto plan = d.plan();
  EXPECT_EQ(plan->open.size(), 1U) << "three blocks are wanted; two are shared, two are free";
  d.run();
  EXPECT_EQ(d.scheduler.stats().preemptions_total, 0U);
}

TEST(Options, SayWhatIsWrong) {
  const KvLayout layout = small_layout();
  EXPECT_TRUE(Scheduler::validate(small_options(), layout).is_ok());
  SchedulerOptions o = small_options();
  o.max_num_batched_tokens = 3;
  EXPECT_EQ(Scheduler::validate(o, layout).subject(), "max_num_batched_tokens");
  o = small_options();
  o.blocks = {};
  EXPECT_EQ(Scheduler::validate(o, layout).subject(), "blocks");
  o.blocks = {1};
  EXPECT_EQ(Scheduler::validate(o, layout).subject(), "blocks");
  o.blocks = {2};
  EXPECT_TRUE(Scheduler::validate(o, layout).is_ok());
  o = small_options();
  o.max_num_seqs = 0;
  EXPECT_EQ(Scheduler::validate(o, layout).subject(), "max_num_seqs");
  o = small_options();
  o.max_num_batched_tokens = 64;
  o.speculative_tokens = 8;
  EXPECT_EQ(Scheduler::validate(o, layout).subject(), "speculative_tokens");
  KvLayout window = layout;
  window.groups[0].window_tokens = 8;
  o = small_options();
  // ceil((8 + 2) / 4) + 1 at once, and two that a hit brings.
  o.blocks = {7};
  EXPECT_TRUE(Scheduler::validate(o, window).is_ok());
  o.blocks = {6};
  EXPECT_EQ(Scheduler::validate(o, window).subject(), "blocks");
}

}  // namespace
}  // namespace fathom
