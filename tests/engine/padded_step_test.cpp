// Steps padded to the shapes that a backend captures compute what unpadded ones do.
#include <gtest/gtest.h>

#include <random>

#include "engine/capture_shapes.h"
#include "model/tiny_model.h"
#include "support/step_loop.h"

namespace fathom::testing {
namespace {

TEST(CaptureShapes, BucketsWasteAtMostAThird) {
  EXPECT_EQ(row_buckets(1), (std::vector<int32_t>{1}));
  EXPECT_EQ(row_buckets(64), (std::vector<int32_t>{1, 2, 4, 8, 12, 16, 24, 32, 48, 64}));
  for (const int32_t rows_max : {1, 2, 3, 7, 8, 9, 12, 100, 256, 1000}) {
    const auto buckets = row_buckets(rows_max);
    EXPECT_EQ(buckets.back(), rows_max);
    EXPECT_TRUE(std::is_sorted(buckets.begin(), buckets.end()));
    for (size_t i = 1; i < buckets.size(); ++i) {
      EXPECT_LT(buckets[i - 1], buckets[i]);
      const int32_t least = buckets[i - 1] + 1;
      if (least <= 8) continue;
      EXPECT_LE(3 * (buckets[i] - least), buckets[i]) << least;
    }
  }
}

TEST(CaptureShapes, PadsDecodeStepsWithinTheLimits) {
  SlotLimits slots;
  slots.drafts_max = 2;
  slots.tokens_max = 512;
  const StepLimits limits{100, 250, 250};
  StepShape shape{.rows = 9, .decode_rows = 9, .tokens = 20, .query_tokens_max = 3};
  shape.sample_rows = 20;
  StepShape padded = padded_shape(shape, limits, slots);
  EXPECT_EQ(padded.rows, 12);
  EXPECT_EQ(padded.decode_rows, 12);
  EXPECT_EQ(padded.tokens, 36);
  EXPECT_EQ(padded.sample_rows, 36);
  EXPECT_EQ(padded.context_tokens_max, 512);
  shape.rows = shape.decode_rows = 97;
  shape.tokens = shape.sample_rows = 240;
  padded = padded_shape(shape, limits, slots);
  EXPECT_EQ(padded.rows, 100);
  EXPECT_EQ(padded.tokens, 250) << "no more than the step's arrays hold";
  EXPECT_EQ(padded.sample_rows, 250);
  shape.decode_rows = 96;  // one prefill row
  EXPECT_EQ(padded_shape(shape, limits, slots).rows, 97);
  EXPECT_EQ(padded_shape(shape, limits, slots).tokens, 240);
  shape.tokens = 235;
  EXPECT_EQ(padded_shape(shape, limits, slots).tokens, 240);
  shape.tokens = 249;
  EXPECT_EQ(padded_shape(shape, limits, slots).tokens, 250) << "no more than the arrays hold";
}

std::map<RequestId, StepAnswer> answers_of(bool padded, int32_t drafts) {
  TinyOptions tiny;
  tiny.limits.drafts_max = drafts;
  TinyModel model(tiny);
  StepLoopOptions options;
  options.rows = 7;
  options.tokens_max = 32;
  options.drafts = drafts;
  options.pad_always = padded;
  StepLoop loop(*model.ops, *model.model, options);
  std::mt19937 random(7);
  for (RequestId id = 1; id <= 24; ++id) {
    SamplingParams sampling = greedy(static_cast<int32_t>(2 + random() % 12));
    sampling.logprobs = 2;
    sampling.prompt_logprobs = id % 5 == 0;
    if (id % 3 == 0) {
      sampling.temperature = 0.9F;
      sampling.seed = id;
    }
    loop.submit(id, prompt_of(static_cast<int32_t>(1 + random() % 40), static_cast<uint32_t>(id)),
                sampling);
    for (uint32_t i = random() % 4; i > 0; --i) loop.turn();
    if (id % 8 == 0) loop.cancel(id);
  }
  loop.run_until_idle();
  EXPECT_EQ(loop.in_flight_max(), 2);
  EXPECT_GT(loop.decode_steps(), 10);
  return loop.answers();
}

TEST(PaddedSteps, ComputeWhatUnpaddedOnesDo) {
  for (const int32_t drafts : {0, 1}) {
    const auto plain = answers_of(false, drafts);
    const auto padded = answers_of(true, drafts);
    ASSERT_EQ(plain.size(), padded.size());
    for (const auto& [id, answer] : plain) {
      const StepAnswer& other = padded.at(id);
      EXPECT_EQ(answer.reason, other.reason);
      EXPECT_EQ(answer.tokens, other.tokens) << "request " << id << ", drafts " << drafts;
      ASSERT_EQ(answer.logprobs.size(), other.logprobs.size());
      for (size_t i = 0; i < answer.logprobs.size(); ++i) {
        EXPECT_EQ(answer.logprobs[i].chosen, other.logprobs[i].chosen);
      }
    }
  }
}

}  // namespace
}  // namespace fathom::testing
