// Tensor and pipeline parallel ranks on threads against one rank, `reference` numerics.
#include <gtest/gtest.h>

#include <thread>

#include "comm/thread_comm.h"
#include "tiny_model.h"

namespace fathom::testing {
namespace {

// A quarter of the widths 640 and 160 is 160 and 40: shards start inside scale blocks.
constexpr float kTolerance = 1e-4F;

enum class Split { kTensor, kPipeline };

// What the last rank computed, with every rank a thread.
StepDriver::Generated generate_on(int32_t ranks, Split split, const TinyOptions& options,
                                  const std::vector<TokenId>& prompt,
                                  const SamplingParams& sampling, int32_t chunk) {
  auto comms = make_thread_group(ranks);
  std::vector<StepDriver::Generated> made(ranks);
  std::vector<std::unique_ptr<TinyModel>> models(ranks);
  for (int32_t rank = 0; rank < ranks; ++rank) {
    Groups groups;
    (split == Split::kTensor ? groups.tp : groups.pp) = comms[rank].get();
    models[rank] = std::make_unique<TinyModel>(options, groups);
  }
  std::vector<std::thread> threads;
  for (int32_t rank = 0; rank < ranks; ++rank) {
    threads.emplace_back(
        [&, rank] { made[rank] = models[rank]->driver->generate(prompt, sampling, chunk); });
  }
  for (std::thread& thread : threads) thread.join();
  for (int32_t rank = 0; rank < ranks; ++rank) {
    EXPECT_TRUE(models[rank]->ops->health().is_ok());
    EXPECT_EQ(made[rank].tokens, made[0].tokens) << "rank " << rank;
    if (split == Split::kTensor) {
      EXPECT_EQ(made[rank].step_logits, made[0].step_logits);
    }
  }
  return made.back();
}

struct ParallelCase {
  const char* name;
  int32_t ranks;
  Split split;
  int32_t drafts;
};

class ParallelTest : public ::testing::TestWithParam<ParallelCase> {};

TEST_P(ParallelTest, EqualsOneRank) {
  TinyOptions options;
  options.limits.drafts_max = GetParam().drafts;
  SamplingParams sampling = greedy(12);
  sampling.prompt_logprobs = true;
  sampling.logprobs = 3;
  const auto prompt = prompt_of(30, 21);
  TinyModel alone(options);
  const auto expected = alone.driver->generate(prompt, sampling, 11);
  const auto made = generate_on(GetParam().ranks, GetParam().split, options, prompt, sampling, 11);
  EXPECT_EQ(made.tokens, expected.tokens);
  EXPECT_EQ(made.finish, FinishReason::kLength);
  EXPECT_LT(largest_difference(made.prompt_logits, expected.prompt_logits), kTolerance);
  EXPECT_LT(largest_difference(made.step_logits, expected.step_logits), kTolerance);
  EXPECT_EQ(made.drafted, expected.drafted);
}

INSTANTIATE_TEST_SUITE_P(Splits, ParallelTest,
                         ::testing::Values(ParallelCase{"Tp2", 2, Split::kTensor, 0},
                                           ParallelCase{"Tp4", 4, Split::kTensor, 0},
                                           ParallelCase{"Tp4WithDrafts", 4, Split::kTensor, 1},
                                           ParallelCase{"Pp2", 2, Split::kPipeline, 0},
                                           ParallelCase{"Pp2WithDrafts", 2, Split::kPipeline, 1}),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace fathom::testing
