// HttpServer over loopback: well-formed requests, keep-alive, pipelining, bodies, methods, drain
// and stop.
#include "net/http_server.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <thread>

#include "raw_client.h"
#include "test_server.h"

namespace fathom::net {
namespace {

TEST(HttpServer, AnswersAndKeepsTheConnection) {
  TestServer server;
  RawClient client(server.port());
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(client.send("GET /hello?a=b%20c HTTP/1.1\r\nHost: x\r\n\r\n"));
    const auto response = client.read_response();
    ASSERT_TRUE(response);
    EXPECT_EQ(response->status, 200);
    EXPECT_EQ(response->body, "hello");
    EXPECT_EQ(response->headers.at("x-query"), "a=b%20c");
    EXPECT_FALSE(response->headers.contains("connection"));
    EXPECT_TRUE(response->headers.at("date").ends_with(" GMT"));
  }
  server.server->stop();
  EXPECT_EQ(server.server->stats().connections_accepted, 1u);
  EXPECT_EQ(server.server->stats().requests, 3u);
}

TEST(HttpServer, TheRequestSaysWhatWasSent) {
  TestServer server;
  RawClient client(server.port());
  client.send(
      "POST http://example.org:8000/v1/x%2Fy?q=1?2 HTTP/1.1\r\nhOsT: other\r\nX-A:  one \r\n"
      "x-a: two\r\nX-Utf8: \xc3\xa4\r\nContent-Length: 2\r\n\r\nhi");
  const auto held = server.handler->take();
  ASSERT_TRUE(held);
  const HttpRequest& request = held->request;
  EXPECT_EQ(request.method, "POST");
  EXPECT_EQ(request.path, "/v1/x%2Fy");
  EXPECT_EQ(request.query, "q=1?2");
  EXPECT_EQ(request.headers.find("HOST"), "other");
  EXPECT_EQ(request.headers.find("X-a"), "one");
  EXPECT_EQ(request.headers.count("x-A"), 2u);
  EXPECT_EQ(request.headers.find("x-utf8"), "\xc3\xa4");
  EXPECT_FALSE(request.headers.has("x-b"));
  EXPECT_EQ(request.body, "hi");
  EXPECT_TRUE(request.remote_address.starts_with("127.0.0.1:"));
  EXPECT_EQ(request.connection_id, 1u);
  EXPECT_FALSE(request.tls);
  EXPECT_FALSE(request.peer.verified);
  EXPECT_LT(std::chrono::steady_clock::now() - request.received_at, std::chrono::seconds(5));
}

TEST(HttpServer, AbsoluteFormWithoutAPathMeansTheRoot) {
  TestServer server;
  RawClient client(server.port());
  client.send("GET http://example.org?a HTTP/1.1\r\nHost: x\r\n\r\n");
  auto held = server.handler->take();
  ASSERT_TRUE(held);
  EXPECT_EQ(held->request.path, "/");
  EXPECT_EQ(held->request.query, "a");
}

TEST(HttpServer, PipelinedRequestsAreAnsweredInOrder) {
  TestServer server;
  RawClient client(server.port());
  std::string bytes;
  for (int i = 0; i < 200; ++i) {
    const std::string body = "body " + std::to_string(i);
    bytes += "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: " + std::to_string(body.size()) +
             "\r\n\r\n" + body;
  }
  ASSERT_TRUE(client.send(bytes));
  for (int i = 0; i < 200; ++i) {
    const auto response = client.read_response();
    ASSERT_TRUE(response) << i;
    EXPECT_EQ(response->body, "body " + std::to_string(i));
  }
}

TEST(HttpServer, ThePipelineWaitsForTheResponseBeforeIt) {
  TestServer server;
  RawClient client(server.port());
  client.send("GET /held HTTP/1.1\r\nHost: x\r\n\r\nGET /hello HTTP/1.1\r\nHost: x\r\n\r\n");
  auto held = server.handler->take();
  ASSERT_TRUE(held);
  EXPECT_FALSE(client.read_until("hello", 100));
  EXPECT_EQ(server.handler->seen(), 1u);
  held->response->send(200, {}, "first");
  const auto first = client.read_response();
  ASSERT_TRUE(first);
  EXPECT_EQ(first->body, "first");
  const auto second = client.read_response();
  ASSERT_TRUE(second);
  EXPECT_EQ(second->body, "hello");
}

TEST(HttpServer, MoreIsPipelinedThanIsBuffered) {
  TestServer server;
  RawClient client(server.port());
  const std::string body(200'000, 'p');
  std::string rest = "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n" + body;
  ASSERT_TRUE(client.send("GET /held HTTP/1.1\r\nHost: x\r\n\r\n"));
  auto held = server.handler->take();
  ASSERT_TRUE(held);
  std::thread sender([&] { EXPECT_TRUE(client.send(rest + rest)); });
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  held->response->send(200, {}, "first");
  EXPECT_EQ(client.read_response()->body, "first");
  for (int i = 0; i < 2; ++i) {
    const auto response = client.read_response();
    ASSERT_TRUE(response);
    EXPECT_EQ(response->body, body);
  }
  sender.join();
}

TEST(HttpServer, BodiesArriveHoweverTheyAreCut) {
  TestServer server;
  const std::string sized =
      "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 11\r\n\r\nhello world";
  const std::string chunked =
      "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\n\r\n"
      "5\r\nhello\r\n006\r\n world\r\n0\r\nX-Checksum: 1\r\n\r\n";
  for (const std::string& bytes : {sized, chunked}) {
    RawClient whole(server.port());
    whole.send(bytes);
    EXPECT_EQ(whole.read_response()->body, "hello world");
    RawClient client(server.port());
    for (const char byte : bytes) ASSERT_TRUE(client.send({&byte, 1}));
    EXPECT_EQ(client.read_response()->body, "hello world");
    ASSERT_TRUE(client.send(bytes)) << "the connection is kept";
    EXPECT_EQ(client.read_response()->body, "hello world");
  }
}

TEST(HttpServer, LargeBodiesGoBothWays) {
  TestServer server;
  std::string body(20'000'000, ' ');
  for (size_t i = 0; i < body.size(); ++i)
    body[i] = static_cast<char>('a' + (i * 31 + i / 977) % 26);
  RawClient client(server.port());
  std::thread sender([&] {
    client.send("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: " + std::to_string(body.size()) +
                "\r\n\r\n");
    client.send(body);
  });
  const auto response = client.read_response(20'000);
  sender.join();
  ASSERT_TRUE(response);
  EXPECT_TRUE(response->body == body);
}

TEST(HttpServer, ExpectContinueIsAnsweredBeforeTheBody) {
  TestServer server;
  RawClient client(server.port());
  client.send(
      "POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-Continue\r\nContent-Length: 2\r\n\r\n");
  const auto interim = client.read_response();
  ASSERT_TRUE(interim);
  EXPECT_EQ(interim->status, 100);
  client.send("ok");
  const auto response = client.read_response();
  ASSERT_TRUE(response);
  EXPECT_EQ(response->body, "ok");
  // With the body already sent there is nothing to ask for.
  client.send(
      "POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nok");
  EXPECT_EQ(client.read_response()->status, 200);
}

TEST(HttpServer, HeadHasTheLengthAndNoBody) {
  TestServer server;
  RawClient client(server.port());
  client.send("HEAD /hello HTTP/1.1\r\nHost: x\r\n\r\nGET /hello HTTP/1.1\r\nHost: x\r\n\r\n");
  const auto head = client.read_response(5000, true);
  ASSERT_TRUE(head);
  EXPECT_EQ(head->headers.at("content-length"), "5");
  EXPECT_EQ(client.read_response()->body, "hello");
}

TEST(HttpServer, HeadOfAStreamHasNoChunks) {
  TestServer server;
  RawClient client(server.port());
  client.send("HEAD /stream HTTP/1.1\r\nHost: x\r\n\r\n");
  auto held = server.handler->take();
  ASSERT_TRUE(held);
  EXPECT_TRUE(held->response->start_stream(200, {}));
  EXPECT_TRUE(held->response->write("data"));
  EXPECT_TRUE(held->response->finish());
  EXPECT_TRUE(client.read_response(5000, true)->headers.contains("transfer-encoding"));
  client.send("GET /hello HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_EQ(client.read_response()->body, "hello");
}

TEST(HttpServer, OptionsAndUnknownMethodsReachTheHandler) {
  TestServer server;
  RawClient client(server.port());
  client.send("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n");
  auto held = server.handler->take();
  ASSERT_TRUE(held);
  EXPECT_EQ(held->request.path, "*");
  held->response->send(204, {{"allow", "GET"}}, "");
  const auto response = client.read_response();
  ASSERT_TRUE(response);
  EXPECT_EQ(response->status, 204);
  EXPECT_FALSE(response->headers.contains("content-length"));
  client.send("BREW /hello HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_EQ(client.read_response()->headers.at("x-method"), "BREW");
}

TEST(HttpServer, Http10ClosesUnlessAskedToStay) {
  TestServer server;
  RawClient client(server.port());
  client.send("GET /hello HTTP/1.0\r\n\r\n");
  EXPECT_EQ(client.read_response()->headers.at("connection"), "close");
  EXPECT_TRUE(client.read_to_end());
  RawClient kept(server.port());
  kept.send("GET /hello HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
  EXPECT_EQ(kept.read_response()->headers.at("connection"), "keep-alive");
  kept.send("GET /stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
  auto held = server.handler->take();
  ASSERT_TRUE(held);
  held->response->start_stream(200, {});
  held->response->write("one ");
  held->response->write("two");
  held->response->finish();
  const auto response = kept.read_response();
  ASSERT_TRUE(response);
  EXPECT_FALSE(response->headers.contains("transfer-encoding"));
  EXPECT_EQ(response->body, "one two");
}

TEST(HttpServer, ConnectionCloseIsObeyed) {
  TestServer server;
  RawClient client(server.port());
  client.send("GET /hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  EXPECT_EQ(client.read_response()->headers.at("connection"), "close");
  EXPECT_TRUE(client.read_to_end());
  EXPECT_FALSE(client.was_reset());
}

TEST(HttpServer, RefusalOnTheHeadDoesNotWaitForTheBody) {
  TestServer server;
  RawClient client(server.port());
  client.send("POST /denied HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n");
  const auto refused = client.read_response();
  ASSERT_TRUE(refused);
  EXPECT_EQ(refused->status, 401);
  EXPECT_EQ(refused->headers.at("connection"), "close");
  // A client that goes on sending still gets to read the answer.
  client.send_some(std::string(100'000, 'x'));
  EXPECT_TRUE(client.read_to_end());
  EXPECT_FALSE(client.was_reset());
  EXPECT_EQ(server.handler->seen(), 0u);

  RawClient kept(server.port());
  kept.send("POST /denied HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody");
  const auto answered = kept.read_response();
  ASSERT_TRUE(answered);
  EXPECT_FALSE(answered->headers.contains("connection"));
  kept.send("GET /hello HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_EQ(kept.read_response()->body, "hello");
}

TEST(HttpServer, ADroppedWriterAnswers500) {
  TestServer server;
  RawClient client(server.port());
  client.send("GET /held HTTP/1.1\r\nHost: x\r\n\r\n");
  server.handler->take().reset();
  const auto response = client.read_response();
  ASSERT_TRUE(response);
  EXPECT_EQ(response->status, 500);
  EXPECT_EQ(response->body, "500 internal_error");
}

TEST(HttpServer, UnsafeAndOwnHeadersAreLeftOut) {
  TestServer server;
  RawClient client(server.port());
  client.send("GET /held HTTP/1.1\r\nHost: x\r\n\r\n");
  auto held = server.handler->take();
  ASSERT_TRUE(held);
  held->response->send(
      200, {{"x-a", "1\r\nx-evil: 1"}, {"x b", "2"}, {"content-length", "99"}, {"x-c", "3"}},
      "body");
  const auto response = client.read_response();
  ASSERT_TRUE(response);
  EXPECT_FALSE(response->headers.contains("x-a"));
  EXPECT_FALSE(response->headers.contains("x-evil"));
  EXPECT_EQ(response->headers.at("x-c"), "3");
  EXPECT_EQ(response->body, "body");
}

TEST(HttpServer, OneAnswerPerRequest) {
  TestServer server;
  RawClient client(server.port());
  client.send("GET /held HTTP/1.1\r\nHost: x\r\n\r\nGET /held HTTP/1.1\r\nHost: x\r\n\r\n");
  auto first = server.handler->take();
  ASSERT_TRUE(first);
  EXPECT_TRUE(first->response->send(200, {}, "one"));
  EXPECT_FALSE(first->response->send(200, {}, "again"));
  EXPECT_FALSE(first->response->start_stream(200, {}));
  EXPECT_FALSE(first->response->write("x"));
  auto second = server.handler->take();
  ASSERT_TRUE(second);
  EXPECT_FALSE(first->response->send(200, {}, "late"));
  first->response->abort();
  EXPECT_TRUE(second->response->send(200, {}, "two"));
  EXPECT_EQ(client.read_response()->body, "one");
  EXPECT_EQ(client.read_response()->body, "two");
}

TEST(HttpServer, TooManyConnectionsAreRefused) {
  HttpLimits limits;
  limits.connections_max = 2;
  TestServer server(limits);
  RawClient one(server.port());
  RawClient two(server.port());
  for (RawClient* client : {&one, &two}) {
    client->send("GET /hello HTTP/1.1\r\nHost: x\r\n\r\n");
    EXPECT_EQ(client->read_response()->status, 200);
  }
  RawClient three(server.port());
  const auto refused = three.read_response();
  ASSERT_TRUE(refused);
  EXPECT_EQ(refused->status, 503);
  EXPECT_EQ(refused->body, "503 too_many_connections");
  EXPECT_TRUE(three.read_to_end());
  one.close();
  const int64_t deadline_ms = test_now_ms() + 5000;
  while (server.server->stats().connections_open > 1 && test_now_ms() < deadline_ms) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  RawClient four(server.port());
  four.send("GET /hello HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_EQ(four.read_response()->status, 200);
  EXPECT_EQ(server.server->stats().connections_refused, 1u);
}

TEST(HttpServer, ListensOnIpv6) {
  HttpServerConfig config;
  const auto handler = std::make_shared<TestHandler>();
  config.listeners.push_back({"six", "::1", 0, nullptr, handler, {}});
  auto server = HttpServer::start(std::move(config));
  if (!server.is_ok()) GTEST_SKIP() << "no IPv6 here: " << server.status().message();
  const int descriptor = ::socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in6 address{};
  address.sin6_family = AF_INET6;
  address.sin6_port = htons((*server)->port(0));
  address.sin6_addr = in6addr_loopback;
  ASSERT_EQ(::connect(descriptor, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  const std::string_view bytes = "GET /held HTTP/1.1\r\nHost: [::1]:80\r\n\r\n";
  ASSERT_EQ(::send(descriptor, bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
  auto held = handler->take();
  ASSERT_TRUE(held);
  EXPECT_TRUE(held->request.remote_address.starts_with("[::1]:"));
  ::close(descriptor);
}

TEST(HttpServer, ErrorsOfListenersNameThem) {
  TestServer first;
  HttpServerConfig config;
  config.listeners.push_back({"taken", "127.0.0.1", first.port(), nullptr, first.handler, {}});
  const auto taken = HttpServer::start(std::move(config));
  ASSERT_FALSE(taken.is_ok());
  EXPECT_NE(taken.status().message().find("taken"), std::string::npos);
  EXPECT_NE(taken.status().message().find("127.0.0.1:" + std::to_string(first.port())),
            std::string::npos)
      << taken.status().message();
  HttpServerConfig nowhere;
  nowhere.listeners.push_back({"n", "not.an.address.invalid", 0, nullptr, first.handler, {}});
  EXPECT_FALSE(HttpServer::start(std::move(nowhere)).is_ok());
}

TEST(HttpServer, DrainEndsIdleConnectionsAndWaitsForResponses) {
  TestServer server;
  RawClient idle(server.port());
  RawClient kept(server.port());
  RawClient busy(server.port());
  for (RawClient* client : {&idle, &kept}) {
    client->send("GET /hello HTTP/1.1\r\nHost: x\r\n\r\n");
    EXPECT_EQ(client->read_response()->status, 200);
  }
  busy.send("GET /held HTTP/1.1\r\nHost: x\r\n\r\n");
  kept.send("GET /held HTTP/1.1\r\nHost: x\r\n\r\n");
  auto first = server.handler->take();
  auto second = server.handler->take();
  ASSERT_TRUE(first && second);
  first->response->start_stream(200, {});
  first->response->write("before ");
  const int64_t start_ms = test_now_ms();
  server.server->begin_drain();
  EXPECT_TRUE(idle.read_to_end(1000));
  EXPECT_FALSE(RawClient(server.port()).connected());
  EXPECT_FALSE(server.server->wait_drained(std::chrono::milliseconds(50)));
  first->response->write("after");
  first->response->finish();
  second->response->send(200, {}, "answer");
  EXPECT_TRUE(server.server->wait_drained(std::chrono::milliseconds(5000)));
  EXPECT_LT(test_now_ms() - start_ms, 1500) << "no wait for a timeout";
  const auto a = busy.read_response();
  const auto b = kept.read_response();
  ASSERT_TRUE(a && b);
  EXPECT_TRUE((a->body == "before after" && b->body == "answer") ||
              (b->body == "before after" && a->body == "answer"));
  const auto& late = a->body == "answer" ? a : b;
  EXPECT_EQ(late->headers.at("connection"), "close");
}

TEST(HttpServer, StopCutsWhatIsLeftAndSaysWhy) {
  TestServer server;
  RawClient client(server.port());
  client.send("GET /held HTTP/1.1\r\nHost: x\r\n\r\n");
  auto held = server.handler->take();
  ASSERT_TRUE(held);
  CloseWatcher watcher;
  watcher.watch(*held->response);
  held->response->start_stream(200, {});
  server.server->stop();
  EXPECT_EQ(watcher.wait(0), CloseReason::kServerStopped);
  EXPECT_FALSE(held->response->write("late"));
  server.server.reset();
  // A writer may outlive its server.
  EXPECT_FALSE(held->response->finish());
  EXPECT_TRUE(held->response->closed());
  CloseWatcher late;
  late.watch(*held->response);
  EXPECT_EQ(late.wait(0), CloseReason::kServerStopped);
  held.reset();
  EXPECT_TRUE(client.read_to_end());
  EXPECT_EQ(watcher.calls(), 1);
}

}  // namespace
}  // namespace fathom::net
