#include "api/generation.h"

#include <gtest/gtest.h>

#include "tests/api/api_fixture.h"

namespace fathom::api {
namespace {

using Record = RecordingSink::Record;

GenerationSpec spec_of(int32_t choices = 1) {
  GenerationSpec spec;
  spec.prompts = {{1, 2, 3}};
  spec.choices_per_prompt = choices;
  spec.sampling.max_tokens = 100;
  return spec;
}

std::shared_ptr<Record> run(ApiFixture& fixture, GenerationSpec spec) {
  auto record = std::make_shared<Record>();
  Generation::start(fixture.context, std::move(spec), std::make_unique<RecordingSink>(record));
  EXPECT_TRUE(RecordingSink::wait(*record));
  return record;
}

TEST(Generation, DeliversTextTokensAndUsage) {
  ApiFixture fixture({.text = "hello", .status = {}, .cached_tokens = 2});
  auto record = run(fixture, spec_of());
  ASSERT_TRUE(record->usage);
  EXPECT_EQ(record->content[0], "hello");
  EXPECT_EQ(record->tokens[0].size(), 5U);
  EXPECT_EQ(record->usage->prompt_tokens, 3);
  EXPECT_EQ(record->usage->completion_tokens, 5);
  EXPECT_EQ(record->usage->cached_tokens, 2);
  EXPECT_EQ(record->ends[0].reason, FinishReason::kStop);
}

TEST(Generation, RecordsTokensAndTimesOnce) {
  ApiFixture fixture({.text = "hello", .status = {}, .cached_tokens = 2});
  auto record = run(fixture, spec_of(2));
  ASSERT_TRUE(record->usage);
  // The last observations follow the sink's last call.
  const std::string last = R"(fathom_request_latency_seconds_count{model="test"} 1)";
  std::string text;
  for (int i = 0; i < 500 && text.find(last) == std::string::npos; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    text = fixture.registry.text(true);
  }
  for (const char* line : {R"(fathom_prompt_tokens_cached_total{model="test"} 4)",
                           R"(fathom_request_queue_time_seconds_count{model="test"} 2)",
                           R"(fathom_request_prefill_time_seconds_count{model="test"} 2)",
                           R"(fathom_request_decode_time_seconds_count{model="test"} 2)",
                           R"(fathom_request_inference_time_seconds_count{model="test"} 2)",
                           R"(fathom_request_time_per_output_token_seconds_count{model="test"} 2)",
                           R"(fathom_request_generation_tokens_sum{model="test"} 10)",
                           R"(vllm:request_queue_time_seconds_count{model_name="test"} 2)",
                           R"(vllm:prompt_tokens_cached_total{model_name="test"} 4)"}) {
    EXPECT_NE(text.find(line), std::string::npos) << line;
  }
}

TEST(Generation, StopStringEndsTheChoiceAndCancelsTheEngine) {
  ApiFixture fixture({.text = "one two three", .status = {}, .endless = true});
  GenerationSpec spec = spec_of();
  spec.stop = {"o t", " thr"};
  auto record = run(fixture, std::move(spec));
  EXPECT_EQ(record->content[0], "one tw");
  EXPECT_EQ(record->ends[0].matched_stop, "o t");
  EXPECT_EQ(fixture.engine->cancels->load(), 1);
}

TEST(Generation, SplitsReasoning) {
  ApiFixture fixture({.text = "why</think>\n\nbecause", .status = {}});
  GenerationSpec spec = spec_of();
  spec.reasoning = text::OutputStart::kReasoning;
  auto record = run(fixture, std::move(spec));
  EXPECT_EQ(record->reasoning[0], "why");
  EXPECT_EQ(record->content[0], "because");
  EXPECT_GT(record->usage->reasoning_tokens, 0);
  EXPECT_LT(record->usage->reasoning_tokens, record->usage->completion_tokens);
}

TEST(Generation, ChoicesOfOneSeedDifferAndAreReproducible) {
  ApiFixture fixture({.text = "x", .status = {}});
  GenerationSpec spec = spec_of(3);
  spec.seeded = true;
  spec.sampling.seed = 40;
  auto record = run(fixture, std::move(spec));
  ASSERT_EQ(fixture.engine->requests.size(), 3U);
  for (uint64_t i = 0; i < 3; ++i) EXPECT_EQ(fixture.engine->requests[i].sampling.seed, 40 + i);
  EXPECT_EQ(record->ends.size(), 3U);
  EXPECT_EQ(record->usage->prompt_tokens, 3);
}

TEST(Generation, EngineErrorFailsTheWhole) {
  ApiFixture fixture(
      {.text = "ab", .reason = FinishReason::kError, .status = unavailable("the engine ended")});
  auto record = run(fixture, spec_of(2));
  ASSERT_TRUE(record->failure);
  EXPECT_EQ(record->failure->message(), "the engine ended");
  EXPECT_FALSE(record->usage);
}

// Each outcome of the metric that a failure can have.
TEST(Generation, FailuresCountByTheirReason) {
  const std::pair<Status, const char*> outcomes[] = {
      {unavailable("the engine ended").because("engine_failed"), "error"},
      {unavailable("waited too long").because("queue_timeout"), "rejected"},
      {unavailable("the server is shutting down").because("draining"), "drained"},
      {Status(Code::kDeadlineExceeded, "too late"), "deadline"}};
  for (const auto& [status, outcome] : outcomes) {
    ApiFixture fixture({.text = "ab", .reason = FinishReason::kError, .status = status});
    run(fixture, spec_of(2));
    // Counted after the sink's last call.
    const std::string line = std::string(R"(fathom_requests_total{model="test",outcome=")") +
                             outcome + R"("} 2)";
    std::string text;
    for (int i = 0; i < 500 && text.find(line) == std::string::npos; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
      text = fixture.registry.text(true);
    }
    EXPECT_NE(text.find(line), std::string::npos) << outcome << "\n" << text;
  }
}

TEST(Generation, RefusalReachesTheSink) {
  ApiFixture fixture({.text = "ab", .status = {}});
  fixture.engine->refuse(resource_exhausted("the queue is full").because("queue_full"));
  auto record = run(fixture, spec_of());
  ASSERT_TRUE(record->failure);
  EXPECT_EQ(record->failure->reason(), "queue_full");
}

TEST(Generation, CancelStopsEveryChoiceAndTheSinkHearsOnlyThatTheClientLeft) {
  ApiFixture fixture({.text = "", .status = {}, .endless = true});
  auto record = std::make_shared<Record>();
  auto generation =
      Generation::start(fixture.context, spec_of(2), std::make_unique<RecordingSink>(record));
  ASSERT_NE(generation, nullptr);
  generation->cancel();
  for (int i = 0; i < 500 && fixture.engine->cancels->load() < 2; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_EQ(fixture.engine->cancels->load(), 2);
  std::unique_lock lock(record->mutex);
  EXPECT_TRUE(record->changed.wait_for(lock, std::chrono::seconds(5),
                                       [&] { return record->gone.has_value(); }));
  EXPECT_EQ(record->gone->prompt_tokens, 3);
  EXPECT_FALSE(record->failure);
  EXPECT_FALSE(record->usage);
}

// A waker that drops the last reference to a generation must not destroy its stream from inside the
// stream's lock.
TEST(Generation, NeverDestroysAStreamInsideItsWaker) {
  for (int round = 0; round < 200; ++round) {
    ApiFixture fixture({.text = "ab", .status = {}, .wakes_locked = true});
    auto record = run(fixture, spec_of());
    ASSERT_TRUE(record->usage) << round;
  }
}

TEST(Generation, BrokenCharactersNeverReachTheSink) {
  ApiFixture fixture({.text = "caf\xC3\xA9 \xE4\xBD", .status = {}});
  auto record = run(fixture, spec_of());
  EXPECT_EQ(record->content[0], "café \xEF\xBF\xBD");
}

}  // namespace
}  // namespace fathom::api
