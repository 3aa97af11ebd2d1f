// What the host knows of a step before it runs.
#include "engine/step_shape.h"

#include <gtest/gtest.h>

namespace fathom {
namespace {

OpenSlot open_slot(SlotId slot, int32_t tokens, bool prompt_logprobs, int32_t computed = 0) {
  auto sampling = std::make_shared<SamplingParams>();
  sampling->prompt_logprobs = prompt_logprobs;
  if (slot % 2 == 0) sampling->logprobs = 5;
  return {slot, std::make_shared<const std::vector<TokenId>>(tokens, 1), tokens, computed,
          std::move(sampling)};
}

TEST(StepShape, CountsRowsTokensAndSamples) {
  std::vector<SlotFacts> facts(8);
  StepPlan first;
  first.open = {open_slot(1, 10, false), open_slot(2, 100, true), open_slot(3, 200, false, 64)};
  first.append = {{1, 0, 0, {5}}, {2, 0, 0, {6, 7}}, {3, 0, 0, {8, 9, 10}}, {3, 0, 3, {11}}};
  first.rows = {{1, RowKind::kPrefill, 10, true},
                {2, RowKind::kPrefill, 64, false},
                {3, RowKind::kPrefill, 64, false}};
  apply_deltas(first, facts);
  StepShape shape = step_shape(first, facts, 64);
  EXPECT_EQ(shape.rows, 3);
  EXPECT_EQ(shape.decode_rows, 0);
  EXPECT_EQ(shape.tokens, 138);
  EXPECT_EQ(shape.prefill_tokens_max, 64);
  EXPECT_EQ(shape.prefill_context_tokens, 10 + 64 + (64 + 64));
  EXPECT_EQ(shape.query_tokens_max, 0);
  EXPECT_EQ(shape.context_tokens_max, 4 * 64);
  EXPECT_EQ(shape.sample_rows, 1 + 64 + 0);
  StepReading reading;
  reading.set(first, facts);
  EXPECT_EQ(reading.slots, (std::vector<SlotId>{1, 2, 3}));
  ASSERT_EQ(reading.logprobs.size(), 1U) << "of those that want some";
  EXPECT_EQ(reading.logprobs[0].row, 1);
  EXPECT_EQ(reading.logprobs[0].sample_first, 1);
  EXPECT_EQ(reading.logprobs[0].prompt_logprobs_max, 99);
  EXPECT_EQ(reading.logprobs[0].logprobs, 5);
  count_prefill(first, facts);

  StepPlan second;
  second.number = 2;
  second.rows = {{1, RowKind::kVerify, 2, true}, {2, RowKind::kPrefill, 36, true}};
  apply_deltas(second, facts);
  shape = step_shape(second, facts, 64);
  EXPECT_EQ(shape.decode_rows, 1);
  EXPECT_EQ(shape.query_tokens_max, 2);
  EXPECT_EQ(shape.sample_rows, 2 + 36);
  EXPECT_EQ(shape.context_tokens_max, 128);
  EXPECT_EQ(shape.prefill_context_tokens, 64 + 36);
  reading.set(second, facts);
  EXPECT_EQ(reading.slots, (std::vector<SlotId>{1, 2})) << "what was there is gone";
  ASSERT_EQ(reading.logprobs.size(), 1U);
  EXPECT_EQ(reading.logprobs[0].row, 1);
  EXPECT_EQ(reading.logprobs[0].sample_first, 2) << "behind the verify row's two";
  EXPECT_EQ(reading.logprobs[0].prompt_logprobs_max, 35);
}

TEST(StepShape, ClosedSlotsForget) {
  std::vector<SlotFacts> facts(4);
  StepPlan plan;
  plan.open = {open_slot(2, 10, true)};
  plan.append = {{2, 0, 0, {5, 6}}};
  apply_deltas(plan, facts);
  EXPECT_TRUE(facts[2].open);
  StepPlan again;
  again.close = {2};
  again.open = {open_slot(2, 70, false)};
  again.append = {{2, 0, 0, {3}}};
  again.rows = {{2, RowKind::kPrefill, 64, false}};
  apply_deltas(again, facts);
  EXPECT_EQ(facts[2].blocks, 1);
  EXPECT_EQ(step_shape(again, facts, 64).sample_rows, 0);
}

TEST(StepShape, KnowsWhichPlansMeet) {
  StepPlan later;
  later.rows = {{5, RowKind::kDecode, 1, true}};
  later.close = {6};
  later.open = {open_slot(7, 1, false)};
  later.append = {{8, 0, 0, {1}}};
  EXPECT_TRUE(touches_rows_of(later, std::vector<SlotId>{1, 5}));
  EXPECT_TRUE(touches_rows_of(later, std::vector<SlotId>{6}));
  EXPECT_TRUE(touches_rows_of(later, std::vector<SlotId>{7}));
  EXPECT_FALSE(touches_rows_of(later, std::vector<SlotId>{8, 9}));
}

}  // namespace
}  // namespace fathom
