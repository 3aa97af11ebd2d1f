// The engine process under a real parent: this program starts itself with --engine.
#include "engine/remote_engine.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstring>
#include <fstream>
#include <iterator>

#include "base/clock.h"
#include "engine/engine_process.h"
#include "scripted_executor.h"
#include "stream_drain.h"

namespace fathom {
namespace {

RemoteEngineOptions test_options(uint64_t step_us = 0) {
  RemoteEngineOptions options;
  options.engine.model_dir = "script";
  options.engine.seed = step_us;
  options.engine.max_num_seqs = 32;
  options.engine.log_level = 5;
  options.backoff_us_min = 10'000;
  return options;
}

struct Rig {
  std::unique_ptr<EngineSupervisor> supervisor = std::move(EngineSupervisor::start()).value();
  std::unique_ptr<RemoteEngine> engine;

  explicit Rig(RemoteEngineOptions options = test_options(), bool wait_ready = true) {
    auto started = RemoteEngine::start(*supervisor, std::move(options));
    EXPECT_TRUE(started.is_ok()) << started.status().to_string();
    engine = std::move(*started);
    if (wait_ready) {
      EXPECT_TRUE(wait_state(EngineState::kReady));
    }
  }

  bool wait_state(EngineState state) {
    return wait_until([&] { return engine->health().state == state; });
  }

  Result<std::unique_ptr<TokenStream>> try_submit(std::vector<TokenId> prompt, int32_t max_tokens) {
    Request request;
    request.prompt = std::move(prompt);
    request.sampling.max_tokens = max_tokens;
    return engine->submit(std::move(request));
  }
  std::unique_ptr<TokenStream> submit(std::vector<TokenId> prompt, int32_t max_tokens) {
    auto stream = try_submit(std::move(prompt), max_tokens);
    EXPECT_TRUE(stream.is_ok()) << stream.status().to_string();
    return std::move(*stream);
  }
};

bool process_exists(pid_t pid) { return ::kill(pid, 0) == 0; }

TEST(RemoteEngine, ServesAcrossTheSocket) {
  Rig rig;
  EXPECT_EQ(rig.engine->info().model.architecture, "Script");
  EXPECT_EQ(rig.engine->info().max_model_len, 4096);
  std::vector<std::unique_ptr<TokenStream>> streams;
  for (TokenId i = 0; i < 200; ++i) streams.push_back(rig.submit({i, 7}, 1 + i % 30));
  for (TokenId i = 0; i < 200; ++i) {
    const Drained out = drain_stream(*streams[static_cast<size_t>(i)]);
    EXPECT_EQ(out.started, 1);
    EXPECT_EQ(out.finished, 1);
    EXPECT_EQ(out.tokens, scripted_answer({i, 7}, 1 + i % 30));
  }
  EXPECT_TRUE(wait_until([&] { return rig.engine->stats().generated_tokens_total > 1000; }));
}

TEST(RemoteEngine, LongPromptsTravelInPieces) {
  RemoteEngineOptions options = test_options();
  Rig rig(options);
  std::vector<TokenId> prompt(4000);
  for (size_t i = 0; i < prompt.size(); ++i) prompt[i] = static_cast<TokenId>(i % 900);
  Request request;
  request.prompt = prompt;
  request.sampling.max_tokens = 5;
  request.sampling.logprobs = 1;
  request.sampling.prompt_logprobs = true;
  auto stream = rig.engine->submit(std::move(request));
  ASSERT_TRUE(stream.is_ok());
  const Drained out = drain_stream(**stream);
  EXPECT_EQ(out.tokens, scripted_answer(prompt, 5));
  EXPECT_EQ(out.prompt_logprobs.size(), 3999U);
}

TEST(RemoteEngine, CancelsAndDestroyedStreamsReachTheChild) {
  Rig rig(test_options(500));
  auto stream = rig.submit({1}, 4000);
  EXPECT_TRUE(wait_until([&] { return rig.engine->stats().generated_tokens_total > 0; }));
  for (int i = 0; i < 20; ++i) rig.submit({2}, 4000);
  stream->cancel();
  EXPECT_EQ(drain_stream(*stream).reason, FinishReason::kCancelled);
  EXPECT_TRUE(wait_until([&] {
    const EngineStats stats = rig.engine->stats();
    return stats.steps_total > 0 && stats.requests_running == 0 && stats.requests_waiting == 0;
  }));
}

TEST(RemoteEngine, ADeadChildEndsItsStreamsAndIsStartedAgain) {
  Rig rig(test_options(1000));
  auto stream = rig.submit({1}, 4000);
  EXPECT_TRUE(wait_until([&] { return rig.engine->stats().generated_tokens_total > 0; }));
  const pid_t before = rig.engine->pid();
  const int64_t killed_us = SystemClock().now_us();
  ASSERT_EQ(::kill(before, SIGKILL), 0);
  const Drained out = drain_stream(*stream);
  EXPECT_EQ(out.finished, 1);
  EXPECT_EQ(out.reason, FinishReason::kError);
  EXPECT_EQ(out.status.code(), Code::kUnavailable);
  EXPECT_LT(SystemClock().now_us() - killed_us, 1'000'000) << "the death is noticed at once";
  EXPECT_TRUE(wait_until([&] { return rig.engine->restarts() == 1; }));
  EXPECT_TRUE(rig.wait_state(EngineState::kReady));
  EXPECT_NE(rig.engine->pid(), before);
  EXPECT_FALSE(process_exists(before)) << "the child is reaped";
  auto after = rig.submit({3}, 5);
  EXPECT_EQ(drain_stream(*after).tokens, scripted_answer({3}, 5));
}

TEST(RemoteEngine, WhatHadNotBegunIsGivenToTheNextChild) {
  RemoteEngineOptions options = test_options(1000);
  options.engine.max_num_seqs = 1;
  Rig rig(options);
  auto running = rig.submit({1}, 4000);
  EXPECT_TRUE(wait_until([&] { return rig.engine->stats().requests_running == 1; }));
  auto waiting = rig.submit({2}, 10);
  auto cancelled = rig.submit({3}, 10);
  cancelled->cancel();
  EXPECT_EQ(drain_stream(*cancelled).reason, FinishReason::kCancelled);
  ASSERT_EQ(::kill(rig.engine->pid(), SIGKILL), 0);
  EXPECT_EQ(drain_stream(*running).reason, FinishReason::kError);
  const Drained out = drain_stream(*waiting);
  EXPECT_EQ(out.started, 1);
  EXPECT_EQ(out.tokens, scripted_answer({2}, 10));
}

TEST(RemoteEngine, APoisonedRequestIsRetriedOnceAndNoMore) {
  Rig rig;
  auto poison = rig.submit({kCrashToken}, 10);
  const Drained out = drain_stream(*poison);
  EXPECT_EQ(out.finished, 1);
  EXPECT_EQ(out.reason, FinishReason::kError);
  EXPECT_TRUE(rig.wait_state(EngineState::kReady));
  EXPECT_LE(rig.engine->restarts(), 2U);
  auto after = rig.submit({3}, 5);
  EXPECT_EQ(drain_stream(*after).tokens, scripted_answer({3}, 5));
}

TEST(RemoteEngine, AReportedFailureRestartsToo) {
  Rig rig;
  auto poison = rig.submit({kFailToken}, 10);
  EXPECT_EQ(drain_stream(*poison).reason, FinishReason::kError);
  EXPECT_TRUE(wait_until([&] { return rig.engine->restarts() >= 1; }));
  EXPECT_TRUE(rig.wait_state(EngineState::kReady));
}

// Not a zombie either.
bool runs(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  const std::string text(std::istreambuf_iterator<char>(file), {});
  const size_t at = text.rfind(')');
  return at != std::string::npos && at + 2 < text.size() && text[at + 2] != 'Z';
}

// A GPU's driver may clean up for long: nobody is to be sent to such an engine meanwhile.
TEST(RemoteEngine, AReportedFailureEndsReadinessBeforeTheProcessEnds) {
  std::atomic<pid_t> pid{0};
  std::atomic<int> ran_when_told{-1};
  RemoteEngineOptions options = test_options();
  options.on_health = [&](const EngineHealth& health) {
    if (pid.load() == 0 || health.state != EngineState::kStarting) return;
    int unknown = -1;
    ran_when_told.compare_exchange_strong(unknown, runs(pid.load()) ? 1 : 0);
  };
  Rig rig(options);
  pid = rig.engine->pid();
  auto poison = rig.submit({kFailToken}, 10);
  EXPECT_EQ(drain_stream(*poison).reason, FinishReason::kError);
  EXPECT_TRUE(wait_until([&] { return ran_when_told.load() >= 0; }));
  EXPECT_EQ(ran_when_told.load(), 1);
  EXPECT_TRUE(rig.wait_state(EngineState::kReady));
}

TEST(RemoteEngine, AStoppedChildIsNotReady) {
  Rig rig;
  const SystemClock clock;
  EXPECT_TRUE(engine_ready(rig.engine->health(), clock.now_us(), kReadyBoundUs));
  ASSERT_EQ(::kill(rig.engine->pid(), SIGSTOP), 0);
  const int64_t stopped_us = clock.now_us();
  EXPECT_TRUE(wait_until(
      [&] { return !engine_ready(rig.engine->health(), clock.now_us(), kReadyBoundUs); }));
  EXPECT_LT(clock.now_us() - stopped_us, kReadyBoundUs + 1'000'000);
  ASSERT_EQ(::kill(rig.engine->pid(), SIGCONT), 0);
  EXPECT_TRUE(wait_until(
      [&] { return engine_ready(rig.engine->health(), clock.now_us(), kReadyBoundUs); }));
}

TEST(RemoteEngine, AStuckStepIsEndedAfterTheBound) {
  RemoteEngineOptions options = test_options();
  options.hang_us = 1'500'000;
  Rig rig(options);
  auto stuck = rig.submit({kHangToken}, 10);
  const pid_t before = rig.engine->pid();
  EXPECT_TRUE(wait_until([&] { return rig.engine->pid() != before; }));
  stuck->cancel();
  EXPECT_EQ(drain_stream(*stuck).finished, 1);
}

TEST(RemoteEngine, AGpuMayHaveABoundOfItsOwn) {
  RemoteEngineOptions options = test_options();
  options.hang_us = 600'000'000;
  options.hang_us_gpu = 1'500'000;  // the script's device is no CPU
  Rig rig(options);
  auto stuck = rig.submit({kHangToken}, 10);
  const pid_t before = rig.engine->pid();
  EXPECT_TRUE(wait_until([&] { return rig.engine->pid() != before; }));
  stuck->cancel();
  EXPECT_EQ(drain_stream(*stuck).finished, 1);
}

TEST(RemoteEngine, GivesUpAfterTooManyDeaths) {
  RemoteEngineOptions options = test_options();
  options.restarts_max = 2;
  Rig rig(options);
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(rig.wait_state(EngineState::kReady));
    const pid_t pid = rig.engine->pid();
    ASSERT_EQ(::kill(pid, SIGKILL), 0);
    EXPECT_TRUE(wait_until([&] { return rig.engine->pid() != pid; }));
  }
  EXPECT_TRUE(rig.wait_state(EngineState::kFailed));
  EXPECT_FALSE(rig.engine->health().status.is_ok());
  EXPECT_EQ(rig.try_submit({1}, 1).status().reason(), "engine_failed");
}

TEST(RemoteEngine, AModelThatCannotLoadFailsAtOnce) {
  RemoteEngineOptions options = test_options();
  options.engine.model_dir = "missing";
  Rig rig(options, false);
  EXPECT_TRUE(rig.wait_state(EngineState::kFailed));
  EXPECT_EQ(rig.engine->health().status.code(), Code::kNotFound);
  EXPECT_EQ(rig.engine->restarts(), 1U);
}

TEST(RemoteEngine, AProgramThatCannotStartFails) {
  RemoteEngineOptions options = test_options();
  options.program = "/nonexistent/fathomd";
  options.restarts_max = 1;
  Rig rig(options, false);
  EXPECT_TRUE(rig.wait_state(EngineState::kFailed));
}

TEST(RemoteEngine, DrainsAndStops) {
  Rig rig(test_options(1000));
  auto stream = rig.submit({1, 2}, 30);
  rig.engine->drain();
  EXPECT_EQ(rig.try_submit({1}, 1).status().reason(), "draining");
  EXPECT_EQ(drain_stream(*stream).tokens, scripted_answer({1, 2}, 30));
  EXPECT_TRUE(rig.wait_state(EngineState::kStopped));
}

TEST(RemoteEngine, DestructionEndsTheChildAndTheStreams) {
  auto rig = std::make_unique<Rig>(test_options(1000));
  auto stream = rig->submit({1}, 4000);
  const pid_t pid = rig->engine->pid();
  ASSERT_TRUE(process_exists(pid));
  rig.reset();
  EXPECT_FALSE(process_exists(pid));
  EXPECT_EQ(drain_stream(*stream).finished, 1);
}

// A parent that is killed leaves no child behind.
TEST(RemoteEngine, NoOrphanSurvivesItsParent) {
  int pipe_ends[2];
  ASSERT_EQ(::pipe(pipe_ends), 0);
  const pid_t parent = ::fork();
  ASSERT_GE(parent, 0);
  if (parent == 0) {
    const std::string fd = std::to_string(pipe_ends[1]);
    ::execl("/proc/self/exe", "remote_engine_test", "--parent", fd.c_str(), nullptr);
    ::_exit(9);
  }
  ::close(pipe_ends[1]);
  pid_t child = 0;
  ASSERT_EQ(::read(pipe_ends[0], &child, sizeof child), static_cast<ssize_t>(sizeof child));
  ASSERT_TRUE(process_exists(child));
  ASSERT_EQ(::kill(parent, SIGKILL), 0);
  ::waitpid(parent, nullptr, 0);
  // A zombie that its new parent has not reaped yet is dead too: its socket end is what counts.
  EXPECT_TRUE(wait_until([&] {
    if (!process_exists(child)) return true;
    const std::string path = "/proc/" + std::to_string(child) + "/exe";
    char target[16];
    return ::readlink(path.c_str(), target, sizeof target) < 0;
  }));
}

int run_parent(int fd) {
  Rig rig;
  const pid_t child = rig.engine->pid();
  if (::write(fd, &child, sizeof child) != static_cast<ssize_t>(sizeof child)) return 9;
  ::pause();
  return 0;
}

}  // namespace
}  // namespace fathom

int main(int argc, char** argv) {
  if (argc > 1 && std::strcmp(argv[1], "--engine") == 0) {
    return fathom::serve_engine(3, fathom::load_scripted);
  }
  if (argc > 2 && std::strcmp(argv[1], "--parent") == 0) {
    return fathom::run_parent(std::atoi(argv[2]));
  }
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
