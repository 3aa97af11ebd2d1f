// Streams: chunks and their order, clients that leave, read slowly or send slowly, and many streams
// at once.
#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "net/http_server.h"
#include "net/sse.h"
#include "raw_client.h"
#include "test_server.h"

namespace fathom::net {
namespace {

using std::chrono::milliseconds;

HeldRequest open_request(TestServer& server, RawClient& client) {
  client.send("POST /held HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}");
  auto held = server.handler->take();
  EXPECT_TRUE(held);
  return *std::move(held);
}

TEST(Streaming, ChunksArriveInOrderAndTheConnectionGoesOn) {
  TestServer server;
  RawClient client(server.port());
  auto held = open_request(server, client);
  CloseWatcher watcher;
  watcher.watch(*held.response);
  ASSERT_TRUE(held.response->start_stream(200, {{"content-type", std::string(kSseContentType)}}));
  std::string expected;
  for (int i = 0; i < 500; ++i) {
    std::string event;
    append_sse_event(event, "{\"i\":" + std::to_string(i) + "}");
    expected += event;
    ASSERT_TRUE(held.response->write(event));
    ASSERT_TRUE(held.response->write(""));
    if (i % 100 == 0) std::this_thread::sleep_for(milliseconds(2));
  }
  ASSERT_TRUE(held.response->finish());
  const auto response = client.read_response();
  ASSERT_TRUE(response);
  EXPECT_EQ(response->body, expected);
  EXPECT_EQ(response->chunks, 500);
  EXPECT_EQ(response->headers.at("content-type"), kSseContentType);
  client.send("GET /hello HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_EQ(client.read_response()->body, "hello");
  EXPECT_FALSE(held.response->closed());
  client.close();
  EXPECT_EQ(watcher.wait(50), std::nullopt) << "the response was finished before the client left";
}

TEST(Streaming, AChunkLeavesWhenItIsWritten) {
  TestServer server;
  RawClient client(server.port());
  auto held = open_request(server, client);
  held.response->start_stream(200, {});
  EXPECT_TRUE(client.read_until("\r\n\r\n")) << "the head does not wait for a chunk";
  held.response->write("first");
  EXPECT_TRUE(client.read_until("first"));
  held.response->write("second");
  EXPECT_TRUE(client.read_until("second"));
  const int64_t deadline_ms = test_now_ms() + 5000;
  while (held.response->buffered_bytes() > 0 && test_now_ms() < deadline_ms) {
    std::this_thread::sleep_for(milliseconds(1));
  }
  EXPECT_EQ(held.response->buffered_bytes(), 0u);
}

TEST(Streaming, WhatQueuesTogetherLeavesTogether) {
  // All is written on the io thread itself, so that nothing can leave in between.
  struct Burst final : HttpHandler {
    void on_request(HttpRequest, std::shared_ptr<ResponseWriter> response) override {
      response->start_stream(200, {});
      for (int i = 0; i < 100; ++i) response->write("chunk");
      response->finish();
    }
    HttpReply on_error(int status, std::string_view, std::string_view) override {
      return {status, {}, ""};
    }
  };
  HttpServerConfig config;
  config.io_threads = 1;
  config.listeners.push_back({"burst", "127.0.0.1", 0, nullptr, std::make_shared<Burst>(), {}});
  auto burst = HttpServer::start(std::move(config));
  ASSERT_TRUE(burst.is_ok());
  RawClient reader((*burst)->port(0));
  reader.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
  const auto response = reader.read_response();
  ASSERT_TRUE(response);
  EXPECT_EQ(response->chunks, 100);
  (*burst)->stop();
  EXPECT_EQ((*burst)->stats().socket_writes, 1u);
}

enum class Leaving { kEnd, kReset, kHalfClose };

class ClientGone : public testing::TestWithParam<Leaving> {
 protected:
  static void leave(RawClient& client) {
    switch (GetParam()) {
      case Leaving::kEnd: return client.close();
      case Leaving::kReset: return client.reset();
      case Leaving::kHalfClose: return client.shutdown_write();
    }
  }
};

TEST_P(ClientGone, IsNoticedWhileTheResponseIsPending) {
  TestServer server;
  RawClient client(server.port());
  auto held = open_request(server, client);
  CloseWatcher watcher;
  watcher.watch(*held.response);
  EXPECT_EQ(watcher.wait(20), std::nullopt);
  const int64_t start_ms = test_now_ms();
  leave(client);
  EXPECT_EQ(watcher.wait(), CloseReason::kClientGone);
  EXPECT_LT(test_now_ms() - start_ms, 200) << "at once, not at a tick";
  EXPECT_TRUE(held.response->closed());
  EXPECT_FALSE(held.response->send(200, {}, "late"));
  server.server->stop();
  EXPECT_EQ(watcher.calls(), 1);
  EXPECT_EQ(server.server->stats().clients_gone, 1u);
}

TEST_P(ClientGone, IsNoticedWhileStreaming) {
  TestServer server;
  RawClient client(server.port());
  auto held = open_request(server, client);
  CloseWatcher watcher;
  watcher.watch(*held.response);
  held.response->start_stream(200, {});
  held.response->write("some");
  ASSERT_TRUE(client.read_until("some"));
  leave(client);
  EXPECT_EQ(watcher.wait(), CloseReason::kClientGone) << "without a further write";
  EXPECT_FALSE(held.response->write("more"));
  EXPECT_FALSE(held.response->finish());
  EXPECT_EQ(watcher.calls(), 1);
}

TEST_P(ClientGone, IsNoticedBehindBytesThatAreNotRead) {
  TestServer server;
  RawClient client(server.port());
  auto held = open_request(server, client);
  CloseWatcher watcher;
  watcher.watch(*held.response);
  // More than the server reads ahead, and less than the kernel holds: the end of file stays behind
  // it.
  const std::string junk = "POST /held HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n\r\n" +
                           std::string(100'000, 'j');
  ASSERT_EQ(client.send_some(junk), junk.size());
  std::this_thread::sleep_for(milliseconds(50));
  leave(client);
  EXPECT_EQ(watcher.wait(), CloseReason::kClientGone);
  EXPECT_EQ(server.handler->seen(), 1u);
}

INSTANTIATE_TEST_SUITE_P(Ways, ClientGone,
                         testing::Values(Leaving::kEnd, Leaving::kReset, Leaving::kHalfClose));

TEST(Streaming, OnCloseAfterTheFactIsCalledAtOnce) {
  TestServer server;
  RawClient client(server.port());
  auto held = open_request(server, client);
  CloseWatcher first;
  first.watch(*held.response);
  client.close();
  ASSERT_EQ(first.wait(), CloseReason::kClientGone);
  CloseWatcher second;
  second.watch(*held.response);
  EXPECT_EQ(second.wait(0), CloseReason::kClientGone);
}

TEST(Streaming, AHalfCloseAfterTheAnswerIsNotTooEarly) {
  TestServer server;
  for (int i = 0; i < 50; ++i) {
    RawClient client(server.port());
    client.send("GET /hello HTTP/1.1\r\nHost: x\r\n\r\n");
    client.shutdown_write();
    const auto response = client.read_response();
    ASSERT_TRUE(response);
    EXPECT_EQ(response->body, "hello");
    EXPECT_TRUE(client.read_to_end());
  }
}

TEST(Streaming, AnAbortedStreamEndsWithoutItsLastChunk) {
  TestServer server;
  RawClient client(server.port());
  auto held = open_request(server, client);
  CloseWatcher watcher;
  watcher.watch(*held.response);
  held.response->start_stream(200, {});
  held.response->write("part");
  ASSERT_TRUE(client.read_until("part"));
  held.response->abort();
  EXPECT_TRUE(client.read_to_end());
  EXPECT_EQ(client.buffer().find("\r\n0\r\n"), std::string::npos);
  EXPECT_EQ(watcher.wait(20), std::nullopt);
  server.server->stop();
  EXPECT_EQ(server.server->stats().clients_gone, 0u);
}

TEST(Streaming, ADroppedWriterCutsItsStream) {
  TestServer server;
  RawClient client(server.port());
  auto held = open_request(server, client);
  held.response->start_stream(200, {});
  held.response->write("part");
  held.response.reset();
  EXPECT_TRUE(client.read_to_end());
  EXPECT_EQ(client.buffer().find("\r\n0\r\n"), std::string::npos);
}

HttpLimits small_buffers() {
  HttpLimits limits;
  limits.write_buffer_bytes_max = 64 * 1024;
  limits.socket_send_buffer_bytes = 16 * 1024;
  return limits;
}

TEST(SlowClient, IsCutAtTheBoundAndHarmsNobody) {
  TestServer server(small_buffers(), nullptr, 1);
  RawClient slow(server.port(), 4096);
  RawClient quick(server.port());
  auto to_slow = open_request(server, slow);
  auto to_quick = open_request(server, quick);
  CloseWatcher slow_watcher;
  CloseWatcher quick_watcher;
  slow_watcher.watch(*to_slow.response);
  quick_watcher.watch(*to_quick.response);
  to_slow.response->start_stream(200, {});
  to_quick.response->start_stream(200, {});
  const std::string chunk(1000, 'c');
  int accepted = 0;
  int64_t slowest_ms = 0;
  for (int i = 0; i < 2000; ++i) {
    const int64_t before_ms = test_now_ms();
    if (to_slow.response->write(chunk)) ++accepted;
    EXPECT_LE(to_slow.response->buffered_bytes(), 64u * 1024 + 2048);
    // The other stream is read as it is written.
    const std::string event = "event " + std::to_string(i) + ";";
    ASSERT_TRUE(to_quick.response->write(event)) << i;
    ASSERT_TRUE(quick.read_until(event)) << i;
    slowest_ms = std::max(slowest_ms, test_now_ms() - before_ms);
  }
  EXPECT_LT(accepted, 2000);
  EXPECT_GE(accepted, 64);
  EXPECT_EQ(slow_watcher.wait(), CloseReason::kSlowClient);
  EXPECT_EQ(slow_watcher.calls(), 1);
  EXPECT_TRUE(to_slow.response->closed());
  EXPECT_LT(slowest_ms, 500);
  to_quick.response->finish();
  EXPECT_TRUE(quick.read_until("\r\n0\r\n\r\n"));
  EXPECT_EQ(quick_watcher.calls(), 0);
  server.server->stop();
  EXPECT_EQ(server.server->stats().slow_clients_cut, 1u);
  EXPECT_TRUE(slow.read_to_end());
  EXPECT_EQ(slow.buffer().find("\r\n0\r\n"), std::string::npos);
}

TEST(SlowClient, OneChunkLargerThanTheBoundIsAccepted) {
  TestServer server(small_buffers());
  RawClient client(server.port());
  auto held = open_request(server, client);
  held.response->start_stream(200, {});
  ASSERT_TRUE(client.read_until("\r\n\r\n"));
  const int64_t deadline_ms = test_now_ms() + 5000;
  while (held.response->buffered_bytes() > 0 && test_now_ms() < deadline_ms) {
    std::this_thread::sleep_for(milliseconds(1));
  }
  EXPECT_TRUE(held.response->write(std::string(500'000, 'x')));
  EXPECT_TRUE(held.response->write("tail"));
  EXPECT_TRUE(held.response->finish());
  const auto response = client.read_response();
  ASSERT_TRUE(response);
  EXPECT_EQ(response->body.size(), 500'004u);
}

TEST(SlowClient, IsCutWhenItStallsThoughLittleIsQueued) {
  HttpLimits limits = small_buffers();
  limits.write_stall_ms = 300;
  TestServer server(limits);
  RawClient client(server.port(), 4096);
  auto held = open_request(server, client);
  CloseWatcher watcher;
  watcher.watch(*held.response);
  held.response->start_stream(200, {});
  held.response->write(std::string(200'000, 'x'));
  const int64_t start_ms = test_now_ms();
  EXPECT_EQ(watcher.wait(), CloseReason::kSlowClient);
  EXPECT_GE(test_now_ms() - start_ms, 200);
}

TEST(SlowClient, AWholeResponseMayBeLargerThanTheBound) {
  TestServer server(small_buffers());
  RawClient client(server.port(), 4096);
  auto held = open_request(server, client);
  ASSERT_TRUE(held.response->send(200, {}, std::string(3'000'000, 'x')));
  const auto response = client.read_response(20'000);
  ASSERT_TRUE(response);
  EXPECT_EQ(response->body.size(), 3'000'000u);
}

TEST(Timeouts, AHeadThatTrickles) {
  HttpLimits limits;
  limits.header_timeout_ms = 200;
  TestServer server(limits);
  RawClient client(server.port());
  const int64_t start_ms = test_now_ms();
  client.send("GET /hello HTT");
  // Bytes that keep coming do not extend the bound.
  for (int i = 0; i < 20 && client.buffer().empty(); ++i) {
    client.send_some("P");
    if (client.read_until("408", 30)) break;
  }
  const auto response = client.read_response();
  ASSERT_TRUE(response);
  EXPECT_EQ(response->status, 408);
  EXPECT_TRUE(client.read_to_end());
  EXPECT_GE(test_now_ms() - start_ms, 150);
  EXPECT_LT(test_now_ms() - start_ms, 3000);
}

TEST(Timeouts, AnIdleConnectionIsClosedSilently) {
  HttpLimits limits;
  limits.idle_timeout_ms = 200;
  TestServer server(limits);
  RawClient fresh(server.port());
  RawClient used(server.port());
  used.send("GET /hello HTTP/1.1\r\nHost: x\r\n\r\n");
  ASSERT_TRUE(used.read_response());
  EXPECT_TRUE(fresh.read_to_end());
  EXPECT_TRUE(used.read_to_end());
  EXPECT_EQ(fresh.buffer() + used.buffer(), "");
}

TEST(Timeouts, ABodyThatStops) {
  HttpLimits limits;
  limits.idle_timeout_ms = 200;
  TestServer server(limits);
  RawClient client(server.port());
  client.send("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhe");
  const auto response = client.read_response();
  ASSERT_TRUE(response);
  EXPECT_EQ(response->status, 408);
  EXPECT_TRUE(client.read_to_end());
}

TEST(Timeouts, APendingResponseIsNotIdle) {
  HttpLimits limits;
  limits.idle_timeout_ms = 100;
  limits.header_timeout_ms = 100;
  limits.write_stall_ms = 100;
  TestServer server(limits);
  RawClient client(server.port());
  auto held = open_request(server, client);
  held.response->start_stream(200, {});
  ASSERT_TRUE(client.read_until("\r\n\r\n"));
  std::this_thread::sleep_for(milliseconds(500));
  EXPECT_TRUE(held.response->write("still here"));
  held.response->finish();
  EXPECT_TRUE(client.read_until("still here"));
}

// Every stream's events reach its own client, complete and in order, while one thread writes them
// all step by step, as the engine's event pump does.
TEST(Streaming, ManyStreamsAtOnce) {
  constexpr int kStreams = 256;
  constexpr int kSteps = 200;
  TestServer server;
  std::vector<std::unique_ptr<RawClient>> clients;
  std::vector<HeldRequest> held;
  for (int i = 0; i < kStreams; ++i) {
    clients.push_back(std::make_unique<RawClient>(server.port()));
    clients.back()->send("GET /held?" + std::to_string(i) + " HTTP/1.1\r\nHost: x\r\n\r\n");
    auto request = server.handler->take();
    ASSERT_TRUE(request);
    held.push_back(*std::move(request));
  }
  std::thread writer([&] {
    for (auto& stream : held) stream.response->start_stream(200, {});
    for (int step = 0; step < kSteps; ++step) {
      for (auto& stream : held) {
        EXPECT_TRUE(
            stream.response->write(stream.request.query + ":" + std::to_string(step) + ";"));
      }
    }
    for (auto& stream : held) stream.response->finish();
  });
  for (int i = 0; i < kStreams; ++i) {
    const auto response = clients[static_cast<size_t>(i)]->read_response(60'000);
    ASSERT_TRUE(response) << i;
    std::string expected;
    for (int step = 0; step < kSteps; ++step) {
      expected += std::to_string(i) + ":" + std::to_string(step) + ";";
    }
    EXPECT_EQ(response->body, expected) << i;
    EXPECT_EQ(response->chunks, kSteps);
  }
  writer.join();
  EXPECT_EQ(server.server->stats().slow_clients_cut, 0u);
}

// Clients come and go at random moments while handlers answer from other threads.
TEST(Streaming, ClientsThatVanishAtAnyMoment) {
  TestServer server;
  std::atomic<bool> stop{false};
  std::vector<std::thread> answerers;
  for (int i = 0; i < 2; ++i) {
    answerers.emplace_back([&] {
      while (!stop) {
        auto held = server.handler->take(20);
        if (!held) continue;
        CloseWatcher watcher;
        watcher.watch(*held->response);
        held->response->start_stream(200, {});
        for (int chunk = 0; chunk < 20 && held->response->write("chunk"); ++chunk) {
        }
        held->response->finish();
        EXPECT_LE(watcher.calls(), 1);
      }
    });
  }
  for (int i = 0; i < 600; ++i) {
    RawClient client(server.port());
    client.send("GET /held HTTP/1.1\r\nHost: x\r\n\r\n");
    if (i % 3 == 0) client.reset();
    if (i % 3 == 1) client.read_until("chunk", 2);
    if (i % 3 == 2) {
      EXPECT_EQ(client.read_response()->chunks, 20);
    }
  }
  stop = true;
  for (auto& answerer : answerers) answerer.join();
  server.server->begin_drain();
  EXPECT_TRUE(server.server->wait_drained(milliseconds(5000)));
}

}  // namespace
}  // namespace fathom::net
