// Both ends of the engine protocol in one process, and an engine process with a raw parent.
#include "engine/frame_channel.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>

#include "engine/engine_process.h"
#include "engine/supervisor.h"
#include "scripted_executor.h"
#include "stream_drain.h"

namespace fathom {
namespace {

std::pair<UniqueFd, UniqueFd> socket_pair() {
  int ends[2];
  EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

// What one end received.
struct Received {
  std::mutex mutex;
  std::vector<Frame> frames;
  std::optional<Status> closed;

  FrameChannel::Handlers handlers() {
    FrameChannel::Handlers handlers;
    handlers.on_frame = [this](Frame frame) {
      std::lock_guard lock(mutex);
      frames.push_back(std::move(frame));
    };
    handlers.on_close = [this](const Status& status) {
      std::lock_guard lock(mutex);
      closed = status;
    };
    return handlers;
  }
  size_t count() {
    std::lock_guard lock(mutex);
    return frames.size();
  }
  bool is_closed() {
    std::lock_guard lock(mutex);
    return closed.has_value();
  }
};

std::unique_ptr<FrameChannel> make_channel(UniqueFd fd, FrameChannel::Handlers handlers) {
  return std::move(FrameChannel::make(std::move(fd), std::move(handlers), 50'000)).value();
}

Frame piece(RequestId id, TokenId token) { return PromptPieceFrame{id, {token}}; }

TEST(FrameChannel, UrgentOvertakesOrderedOvertakesBulk) {
  auto [left, right] = socket_pair();
  auto sender = make_channel(std::move(left), {});
  sender->send(piece(1, 1), FrameChannel::Lane::kBulk);
  sender->send(piece(1, 2), FrameChannel::Lane::kBulk);
  sender->send(CancelFrame{{9}}, FrameChannel::Lane::kOrdered);
  sender->send(PingFrame{1}, FrameChannel::Lane::kUrgent);
  EXPECT_EQ(sender->unsent(), 4U);
  Received received;
  auto reader = make_channel(std::move(right), received.handlers());
  reader->start("reader");
  sender->start("sender");
  ASSERT_TRUE(wait_until([&] { return received.count() == 4; }));
  EXPECT_EQ(sender->unsent(), 0U);
  EXPECT_TRUE(std::holds_alternative<PingFrame>(received.frames[0]));
  EXPECT_TRUE(std::holds_alternative<CancelFrame>(received.frames[1]));
  EXPECT_EQ(std::get<PromptPieceFrame>(received.frames[2]).tokens[0], 1);
  EXPECT_EQ(std::get<PromptPieceFrame>(received.frames[3]).tokens[0], 2);
}

TEST(FrameChannel, RetractTakesBackWhatIsUnsent) {
  auto [left, right] = socket_pair();
  auto sender = make_channel(std::move(left), {});
  Request request;
  request.id = 5;
  request.prompt.assign(3 * kPromptPieceTokensMax, 1);
  sender->send(split_request(request), FrameChannel::Lane::kBulk);
  sender->send(piece(6, 1), FrameChannel::Lane::kBulk);
  EXPECT_TRUE(sender->retract(5));
  EXPECT_FALSE(sender->retract(6)) << "its SubmitFrame is gone already";
  EXPECT_EQ(sender->unsent(), 0U);
}

TEST(FrameChannel, ManyFramesArriveWholeAndInOrder) {
  auto [left, right] = socket_pair();
  Received received;
  auto sender = make_channel(std::move(left), {});
  auto reader = make_channel(std::move(right), received.handlers());
  reader->start("reader");
  sender->start("sender");
  for (int i = 0; i < 300; ++i) {
    sender->send(PromptPieceFrame{1, std::vector<TokenId>(1 + (i * 997) % 30'000, i)});
  }
  ASSERT_TRUE(wait_until([&] { return received.count() == 300; }));
  for (int i = 0; i < 300; ++i) {
    const auto& got = std::get<PromptPieceFrame>(received.frames[static_cast<size_t>(i)]);
    ASSERT_EQ(got.tokens.size(), static_cast<size_t>(1 + (i * 997) % 30'000));
    ASSERT_EQ(got.tokens.back(), i);
  }
  sender.reset();
  EXPECT_TRUE(wait_until([&] { return received.is_closed(); }));
  EXPECT_TRUE(received.closed->is_ok());
}

TEST(FrameChannel, NonsenseClosesIt) {
  auto [left, right] = socket_pair();
  Received received;
  auto reader = make_channel(std::move(right), received.handlers());
  reader->start("reader");
  ASSERT_EQ(::write(left.get(), "\xff\xff\xff\xff\xff nonsense", 14), 14);
  EXPECT_TRUE(wait_until([&] { return received.is_closed(); }));
  EXPECT_EQ(received.closed->code(), Code::kDataLoss);
  char byte = 0;
  EXPECT_EQ(::read(left.get(), &byte, 1), 0) << "the other end sees the end";
}

// A parent that stops reading stops the engine's planning, not its life.
TEST(EngineProcess, StopsPlanningWhileNobodyReads) {
  auto supervisor = std::move(EngineSupervisor::start()).value();
  auto [ours, theirs] = socket_pair();
  std::atomic<int> pid{0};
  ChildProcess child;
  supervisor->post([&, fd = theirs.get()] {
    child = std::move(supervisor->spawn("/proc/self/exe", {"--engine"}, fd)).value();
    pid.store(child.pid);
  });
  ASSERT_TRUE(wait_until([&] { return pid.load() != 0; }));
  theirs.reset();
  const auto write_out = [&](const Frame& frame) {
    std::string bytes;
    encode_frame(frame, bytes);
    ASSERT_EQ(::write(ours.get(), bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
  };
  EngineOptions options;
  options.model_dir = "script";
  options.max_num_seqs = 8;
  options.log_level = 5;
  write_out(OptionsFrame{::getpid(), options});

  std::string in;
  const auto read_frame = [&]() -> Frame {
    while (true) {
      const auto bytes = std::as_bytes(std::span(in.data(), in.size()));
      const size_t size = frame_bytes(bytes).value();
      if (size > 0 && size <= in.size()) {
        Frame frame = decode_frame(bytes.first(size)).value();
        in.erase(0, size);
        return frame;
      }
      char buffer[4096];
      const ssize_t got = ::read(ours.get(), buffer, sizeof buffer);
      FATHOM_CHECK(got > 0, "the engine closed its socket");
      in.append(buffer, static_cast<size_t>(got));
    }
  };
  while (!std::holds_alternative<ReadyFrame>(read_frame())) {
  }
  constexpr int kTokens = 4000;
  Request request;
  request.id = 1;
  request.prompt = {1};
  request.sampling.max_tokens = kTokens;
  write_out(SubmitFrame{request, 1});
  std::this_thread::sleep_for(std::chrono::seconds(1));

  // Unread, the engine is at most a socket buffer and 64 frames ahead of its reader.
  size_t tokens = 0;
  bool finished = false;
  uint64_t ahead_max = 0;
  while (!finished) {
    Frame frame = read_frame();
    if (const auto* beat = std::get_if<HeartbeatFrame>(&frame)) {
      if (beat->stats.generated_tokens_total > tokens) {
        ahead_max = std::max(ahead_max, beat->stats.generated_tokens_total - tokens);
      }
    } else if (const auto* events = std::get_if<EventsFrame>(&frame)) {
      for (const RequestEvent& event : events->events) {
        if (const auto* t = std::get_if<TokensEvent>(&event.event)) tokens += t->tokens.size();
        finished = finished || std::holds_alternative<FinishedEvent>(event.event);
      }
    }
  }
  EXPECT_EQ(tokens, static_cast<size_t>(kTokens));
  EXPECT_LT(ahead_max, static_cast<uint64_t>(kTokens) / 2);
  ours.reset();
  kill_and_reap(child, 1'000'000);
}

}  // namespace
}  // namespace fathom

int main(int argc, char** argv) {
  if (argc > 1 && std::strcmp(argv[1], "--engine") == 0) {
    return fathom::serve_engine(3, fathom::load_scripted);
  }
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
