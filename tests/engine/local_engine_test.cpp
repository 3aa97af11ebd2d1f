// The engine loop and the in-process handle over a scripted executor.
#include "engine/local_engine.h"

#include <gtest/gtest.h>

#include <limits>
#include <mutex>

#include "base/clock.h"
#include "scripted_executor.h"
#include "stream_drain.h"

namespace fathom {
namespace {

struct Rig {
  ScriptedExecutor* executor = nullptr;
  std::unique_ptr<LocalEngine> engine;

  explicit Rig(ScriptOptions script = {}, LocalEngineOptions options = script_engine_options()) {
    auto made = std::make_unique<ScriptedExecutor>(script);
    executor = made.get();
    auto result = LocalEngine::start(std::move(made), std::move(options));
    EXPECT_TRUE(result.is_ok()) << result.status().to_string();
    engine = std::move(*result);
  }

  std::unique_ptr<TokenStream> submit(std::vector<TokenId> prompt, int32_t max_tokens) {
    Request request;
    request.prompt = std::move(prompt);
    request.sampling.max_tokens = max_tokens;
    auto stream = engine->submit(std::move(request));
    EXPECT_TRUE(stream.is_ok()) << stream.status().to_string();
    return std::move(*stream);
  }
};

TEST(LocalEngine, AnswersARequest) {
  Rig rig;
  const std::vector<TokenId> prompt{1, 2, 3};
  auto stream = rig.submit(prompt, 20);
  const Drained out = drain_stream(*stream);
  EXPECT_EQ(out.started, 1);
  EXPECT_EQ(out.finished, 1);
  EXPECT_EQ(out.reason, FinishReason::kLength);
  EXPECT_EQ(out.tokens, scripted_answer(prompt, 20));
  EXPECT_FALSE(stream->poll().has_value()) << "nothing comes after the end";
}

TEST(LocalEngine, RunsTwoHundredStreamsAtOnce) {
  Rig rig;
  std::vector<std::unique_ptr<TokenStream>> streams;
  for (TokenId i = 0; i < 200; ++i) streams.push_back(rig.submit({i, i + 1, 5}, 1 + i % 40));
  for (TokenId i = 0; i < 200; ++i) {
    const Drained out = drain_stream(*streams[static_cast<size_t>(i)]);
    EXPECT_EQ(out.finished, 1);
    EXPECT_EQ(out.tokens, scripted_answer({i, i + 1, 5}, 1 + i % 40)) << i;
  }
  EXPECT_TRUE(wait_until([&] { return rig.engine->stats().requests_running == 0; }));
  EXPECT_EQ(rig.engine->stats().blocks_used, 0);
}

TEST(LocalEngine, WakesItsReaderAndLetsItPollThere) {
  Rig rig;
  auto stream = rig.submit({1, 2}, 30);
  std::mutex mutex;
  Drained out;
  std::atomic<bool> done{false};
  stream->set_waker([&] {
    std::lock_guard lock(mutex);
    while (std::optional<StreamEvent> event = stream->poll()) take_event(*event, out);
    if (out.finished == 1) done.store(true);
  });
  EXPECT_TRUE(wait_until([&] { return done.load(); }));
  stream->set_waker({});
  EXPECT_EQ(out.tokens, scripted_answer({1, 2}, 30));
}

TEST(LocalEngine, CancelEndsAStreamAndFreesItsBlocks) {
  Rig rig({.step_us = 500});
  auto stream = rig.submit({1, 2, 3}, 4000);
  EXPECT_TRUE(wait_until([&] { return rig.engine->stats().generated_tokens_total > 3; }));
  stream->cancel();
  stream->cancel();
  const Drained out = drain_stream(*stream);
  EXPECT_EQ(out.finished, 1);
  EXPECT_EQ(out.reason, FinishReason::kCancelled);
  EXPECT_LT(out.tokens.size(), 4000U);
  EXPECT_TRUE(wait_until([&] { return rig.engine->stats().blocks_used == 0; }));
}

TEST(LocalEngine, ADestroyedStreamIsCancelled) {
  Rig rig({.step_us = 500});
  for (int i = 0; i < 50; ++i) rig.submit({1, 2, 3}, 4000);
  auto kept = rig.submit({4}, 10);
  EXPECT_EQ(drain_stream(*kept).tokens, scripted_answer({4}, 10));
  EXPECT_TRUE(wait_until([&] {
    const EngineStats stats = rig.engine->stats();
    return stats.requests_running == 0 && stats.requests_waiting == 0 && stats.blocks_used == 0;
  }));
}

TEST(LocalEngine, ADeadlineEndsRunningAndWaitingRequests) {
  Rig rig;
  rig.executor->hold(true);
  const int64_t now_us = SystemClock().now_us();
  Request request;
  request.prompt = {1, 2};
  request.sampling.max_tokens = 1000;
  request.deadline_us = now_us + 50'000;
  auto stream = rig.engine->submit(request);
  ASSERT_TRUE(stream.is_ok());
  const Drained out = drain_stream(**stream);
  EXPECT_EQ(out.finished, 1);
  EXPECT_EQ(out.reason, FinishReason::kDeadline);
  EXPECT_EQ(out.status.code(), Code::kDeadlineExceeded);
  EXPECT_GE(SystemClock().now_us(), now_us + 50'000);
  rig.executor->hold(false);
}

TEST(LocalEngine, ASlowReaderDelaysNobodyAndMissesNothing) {
  Rig rig;
  auto slow = rig.submit({1}, 500);
  auto fast = rig.submit({2}, 500);
  EXPECT_EQ(drain_stream(*fast).tokens, scripted_answer({2}, 500));
  EXPECT_EQ(drain_stream(*slow).tokens, scripted_answer({1}, 500));
}

TEST(LocalEngine, TheQueueIsBoundedInRequestsAndTokens) {
  LocalEngineOptions options = script_engine_options();
  options.queue = {.requests_max = 3, .tokens_max = 100};
  options.scheduler.max_num_seqs = 1;
  Rig rig({}, options);
  rig.executor->hold(true);
  auto running = rig.submit({1}, 5);
  EXPECT_TRUE(wait_until([&] { return rig.engine->stats().requests_running == 1; }));
  auto a = rig.submit(std::vector<TokenId>(60, 1), 5);
  Request big;
  big.prompt.assign(60, 2);
  auto refused = rig.engine->submit(big);
  ASSERT_FALSE(refused.is_ok());
  EXPECT_EQ(refused.status().code(), Code::kResourceExhausted);
  EXPECT_EQ(refused.status().reason(), "queue_full");
  auto b = rig.submit({3}, 5);
  auto c = rig.submit({4}, 5);
  Request small;
  small.prompt = {5};
  EXPECT_EQ(rig.engine->submit(small).status().reason(), "queue_full");
  b.reset();  // room again, once the engine has read the cancel
  EXPECT_TRUE(wait_until([&] { return rig.engine->submit(small).is_ok(); }));
  rig.executor->hold(false);
  EXPECT_EQ(drain_stream(*a).finished, 1);
  EXPECT_EQ(drain_stream(*c).finished, 1);
  EXPECT_EQ(drain_stream(*running).finished, 1);
}

TEST(LocalEngine, RefusesWhatItCannotServe) {
  Rig rig;
  const auto status_of = [&](auto change) {
    Request request;
    request.prompt = {1, 2};
    change(request);
    return rig.engine->submit(std::move(request)).status();
  };
  EXPECT_EQ(status_of([](Request& r) { r.prompt.clear(); }).subject(), "prompt");
  EXPECT_EQ(status_of([](Request& r) { r.prompt = {-1}; }).subject(), "prompt");
  EXPECT_EQ(status_of([](Request& r) { r.prompt = {kScriptVocab}; }).subject(), "prompt");
  EXPECT_EQ(status_of([](Request& r) { r.prompt.assign(4096, 1); }).reason(),
            "context_length_exceeded");
  EXPECT_EQ(status_of([](Request& r) { r.sampling.temperature = -0.1F; }).subject(), "temperature");
  EXPECT_EQ(status_of([](Request& r) {
              r.sampling.top_p = std::numeric_limits<float>::quiet_NaN();
            }).subject(),
            "top_p");
  EXPECT_EQ(status_of([](Request& r) { r.sampling.logprobs = 21; }).subject(), "logprobs");
  EXPECT_EQ(status_of([](Request& r) {
              r.sampling.logit_bias = {{-5, 1.0F}};
            }).subject(),
            "logit_bias");
  EXPECT_EQ(status_of([](Request& r) { r.sampling.stop_token_ids.assign(17, 1); }).subject(),
            "stop_token_ids");
}

TEST(LocalEngine, DrainFinishesWhatRunsAndRefusesTheRest) {
  Rig rig({.step_us = 1000});
  auto stream = rig.submit({1, 2}, 30);
  rig.engine->drain();
  Request late;
  late.prompt = {1};
  const Status refused = rig.engine->submit(late).status();
  EXPECT_EQ(refused.code(), Code::kUnavailable);
  EXPECT_EQ(refused.reason(), "draining");
  EXPECT_EQ(drain_stream(*stream).tokens, scripted_answer({1, 2}, 30));
  EXPECT_TRUE(wait_until([&] { return rig.engine->health().state == EngineState::kStopped; }));
}

TEST(LocalEngine, DestructionEndsEveryStreamOnce) {
  auto rig = std::make_unique<Rig>(ScriptOptions{.step_us = 1000});
  std::vector<std::unique_ptr<TokenStream>> streams;
  for (TokenId i = 0; i < 40; ++i) streams.push_back(rig->submit({i}, 3000));
  rig.reset();
  for (auto& stream : streams) {
    const Drained out = drain_stream(*stream);
    EXPECT_EQ(out.finished, 1);
    EXPECT_EQ(out.reason, FinishReason::kError);
    EXPECT_EQ(out.status.reason(), "draining");
    stream->cancel();
  }
}

TEST(LocalEngine, AFailedExecutorEndsEveryStreamAndShowsInHealth) {
  Rig rig({.step_us = 1000});
  auto stream = rig.submit({1}, 3000);
  auto poison = rig.submit({kFailToken}, 5);
  const Drained out = drain_stream(*stream);
  EXPECT_EQ(out.reason, FinishReason::kError);
  EXPECT_EQ(out.status.code(), Code::kUnavailable);
  EXPECT_EQ(drain_stream(*poison).reason, FinishReason::kError);
  EXPECT_TRUE(wait_until([&] { return rig.engine->health().state == EngineState::kFailed; }));
  EXPECT_EQ(rig.engine->health().status.code(), Code::kInternal);
  Request late;
  late.prompt = {1};
  EXPECT_EQ(rig.engine->submit(late).status().reason(), "engine_failed");
}

TEST(LocalEngine, ProvesProgressIdleAndNotWhenStuck) {
  Rig rig;
  const int64_t first_us = rig.engine->health().last_progress_us;
  EXPECT_TRUE(wait_until([&] { return rig.engine->health().last_progress_us > first_us; }));
  rig.executor->hold(true);
  auto stream = rig.submit({1}, 5);
  EXPECT_TRUE(wait_until([&] { return rig.engine->stats().requests_running == 1; }));
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  const int64_t stuck_us = rig.engine->health().last_progress_us;
  std::this_thread::sleep_for(std::chrono::milliseconds(700));
  EXPECT_EQ(rig.engine->health().last_progress_us, stuck_us);
  rig.executor->hold(false);
  EXPECT_EQ(drain_stream(*stream).finished, 1);
  EXPECT_GT(rig.engine->health().last_progress_us, stuck_us);
}

TEST(LocalEngine, IdleCostsNoSteps) {
  Rig rig;
  auto stream = rig.submit({1}, 5);
  drain_stream(*stream);
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  const uint64_t steps = rig.executor->steps_run();
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  EXPECT_EQ(rig.executor->steps_run(), steps);
}

TEST(LocalEngine, PromptLogprobsComeBeforeTheAnswer) {
  Rig rig;
  Request request;
  request.prompt.assign(1200, 3);
  request.sampling.max_tokens = 4;
  request.sampling.logprobs = 1;
  request.sampling.prompt_logprobs = true;
  auto stream = rig.engine->submit(request);
  ASSERT_TRUE(stream.is_ok());
  const Drained out = drain_stream(**stream);
  ASSERT_EQ(out.prompt_logprobs.size(), 1199U);
  for (size_t i = 0; i < out.prompt_logprobs.size(); ++i) {
    ASSERT_EQ(out.prompt_logprobs[i].chosen, -static_cast<float>(i + 1));
  }
  EXPECT_EQ(out.logprobs.size(), 4U);
}

}  // namespace
}  // namespace fathom
