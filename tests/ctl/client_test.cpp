// URLs, and the HTTP client against servers that keep to HTTP and servers that do not.
#include <gtest/gtest.h>

#include "ctl/generation.h"
#include "ctl/http_client.h"
#include "fake_server.h"

namespace fathom::ctl {
namespace {

using testing::api_answer;
using testing::FakeAnswer;
using testing::FakeRequest;
using testing::FakeServer;
using testing::json_answer;
using testing::sse_answer;

HttpClient client_of(const FakeServer& server, int idle_ms = 5000) {
  ClientConfig config;
  config.url = parse_url(server.url()).value();
  config.bounds.idle = std::chrono::milliseconds(idle_ms);
  return HttpClient(config);
}

TEST(Url, ReadsWhatPeopleWrite) {
  const auto check = [](const char* text, bool tls, const char* host, int port,
                        const char* prefix) {
    const auto url = parse_url(text);
    ASSERT_TRUE(url.is_ok()) << text;
    EXPECT_EQ(url->tls, tls) << text;
    EXPECT_EQ(url->host, host) << text;
    EXPECT_EQ(url->port, port) << text;
    EXPECT_EQ(url->prefix, prefix) << text;
  };
  check("http://127.0.0.1:8000", false, "127.0.0.1", 8000, "");
  check("https://example.org", true, "example.org", 443, "");
  check("https://example.org/api/", true, "example.org", 443, "/api");
  check("localhost:8000", false, "localhost", 8000, "");
  check("localhost", false, "localhost", 80, "");
  check("http://[::1]:8000/x", false, "::1", 8000, "/x");
  check("http://[::1]", false, "::1", 80, "");
  EXPECT_EQ(parse_url("http://[::1]:81")->authority(), "[::1]:81");
}

TEST(Url, RefusesWhatIsNone) {
  for (const char* text : {"", "http://", "ftp://x", "http://x:0", "http://x:65536",
                           "http://x:", "http://x:8a", "http://[::1", "http://[::1]x", "http://a b",
                           "http://x\r\nHost: y", "http://x/a b", "http://x/?q", "http://:80"}) {
    EXPECT_FALSE(parse_url(text).is_ok()) << text;
  }
}

TEST(HttpClient, SendsWhatAServerNeedsAndKeepsTheConnection) {
  FakeServer server([](const FakeRequest& r) { return json_answer("{\"n\":" + r.body + "}"); });
  ClientConfig config;
  config.url = parse_url(server.url() + "/base").value();
  config.api_key = "secret";
  HttpClient client(config);
  for (int i = 0; i < 3; ++i) {
    const auto response = client.fetch({"POST", "/x", std::to_string(i)});
    ASSERT_TRUE(response.is_ok()) << response.status().to_string();
    EXPECT_EQ(response->body, "{\"n\":" + std::to_string(i) + "}");
    EXPECT_EQ(response->head.find("content-TYPE"), "application/json");
  }
  EXPECT_EQ(server.connections(), 1);
  const FakeRequest sent = server.requests().front();
  EXPECT_TRUE(sent.is("POST /base/x HTTP/1.1\r\n"));
  EXPECT_NE(sent.head.find("Authorization: Bearer secret\r\n"), std::string::npos);
  EXPECT_NE(sent.head.find("Content-Length: 1\r\n"), std::string::npos);
  EXPECT_NE(sent.head.find("Host: 127.0.0.1:"), std::string::npos);
}

TEST(HttpClient, ReadsBodiesInAnyCutAndCoding) {
  const std::string chunked =
      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1;x=y\r\nd\r\n0\r\n\r\n";
  const std::string counted = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabcd";
  const std::string until_close = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabcd";
  for (const std::string& answer : {chunked, counted, until_close}) {
    for (size_t piece = 1; piece < answer.size(); piece += 7) {
      FakeServer server([&](const FakeRequest&) {
        FakeAnswer a;
        for (size_t at = 0; at < answer.size(); at += piece) {
          a.pieces.push_back(answer.substr(at, piece));
        }
        a.close = answer == until_close;
        return a;
      });
      const auto response = client_of(server).fetch({"GET", "/", ""});
      ASSERT_TRUE(response.is_ok()) << response.status().to_string();
      EXPECT_EQ(response->body, "abcd");
    }
  }
}

TEST(HttpClient, OpensAStaleConnectionAgainOnce) {
  FakeServer server([](const FakeRequest&) {
    FakeAnswer a = json_answer("{}");
    a.close = true;  // without having said so
    return a;
  });
  HttpClient client = client_of(server);
  for (int i = 0; i < 3; ++i) {
    const auto response = client.fetch({"GET", "/", ""});
    ASSERT_TRUE(response.is_ok()) << response.status().to_string();
  }
  EXPECT_EQ(server.connections(), 3);
  EXPECT_EQ(server.requests().size(), 3U);
}

TEST(HttpClient, NamesWhatIsWrongWithAServer) {
  const std::pair<const char*, const char*> answers[] = {
      {"nonsense\r\n\r\n", "not HTTP"},
      {"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", "ended inside"},
      {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", "ended inside"},
      {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "not HTTP"},
      {"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab", "more than the response"},
      {"", "without an answer"},
  };
  for (const auto& [answer, expected] : answers) {
    FakeServer server([&](const FakeRequest&) { return FakeAnswer{{answer}, true, 0}; });
    const auto response = client_of(server).fetch({"GET", "/", ""});
    ASSERT_FALSE(response.is_ok()) << answer;
    EXPECT_NE(response.status().message().find(expected), std::string::npos)
        << answer << ": " << response.status().message();
  }
}

TEST(HttpClient, BoundsEveryWait) {
  FakeServer server([](const FakeRequest&) { return FakeAnswer{}; });
  const auto start = std::chrono::steady_clock::now();
  const auto late = client_of(server, 150).fetch({"GET", "/", ""});
  EXPECT_EQ(late.status().code(), Code::kDeadlineExceeded);
  std::atomic<bool> cancel{false};
  ClientConfig config;
  config.url = parse_url(server.url()).value();
  config.bounds.cancel = &cancel;
  std::jthread interrupt([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    cancel = true;
  });
  EXPECT_EQ(HttpClient(config).fetch({"GET", "/", ""}).status().code(), Code::kCancelled);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
}

TEST(HttpClient, ARefusedConnectionIsUnavailable) {
  uint16_t port = 0;
  {
    const FakeServer gone([](const FakeRequest&) { return FakeAnswer{}; });
    port = parse_url(gone.url())->port;
  }
  ClientConfig config;
  config.url = parse_url("127.0.0.1:" + std::to_string(port)).value();
  const auto response = HttpClient(config).fetch({"GET", "/", ""});
  EXPECT_EQ(response.status().code(), Code::kUnavailable);
  config.url = parse_url("no-such-host.invalid").value();
  EXPECT_EQ(HttpClient(config).fetch({"GET", "/", ""}).status().code(), Code::kUnavailable);
}

TEST(Generate, CollectsAChat) {
  FakeServer server(api_answer);
  HttpClient client = client_of(server);
  std::string seen;
  const auto answer =
      generate(client, "/v1/chat/completions", chat_body("m", {{"user", "hi"}}, {}, true),
               [&](const Delta& d) {
                 seen += d.reasoning.empty() ? "c:" + std::string(d.content) + ";" : "r;";
                 return true;
               });
  ASSERT_TRUE(answer.is_ok()) << answer.status().to_string();
  EXPECT_EQ(seen, "r;c:Hel;c:lo;");
  EXPECT_EQ(answer->content, "Hello");
  EXPECT_EQ(answer->reasoning, "let me see");
  EXPECT_EQ(answer->finish_reason, "stop");
  EXPECT_EQ(answer->prompt_tokens, 4);
  EXPECT_EQ(answer->cached_tokens, 2);
  EXPECT_EQ(answer->completion_tokens, 5);
  EXPECT_EQ(answer->events, 3);
  const std::string body = server.requests().front().body;
  EXPECT_NE(body.find(R"("messages":[{"role":"user","content":"hi"}])"), std::string::npos) << body;
  EXPECT_NE(body.find(R"("thinking":{"type":"enabled"})"), std::string::npos) << body;
  EXPECT_NE(body.find(R"("include_usage":true)"), std::string::npos) << body;
}

Status failure_of(const FakeAnswer& answer) {
  FakeServer server([&](const FakeRequest&) { return answer; });
  HttpClient client = client_of(server);
  return generate(client, "/v1/completions", "{}", [](const Delta&) { return true; }).status();
}

TEST(Generate, SaysHowAStreamFailed) {
  const Status error = failure_of(
      sse_answer({R"({"choices":[{"index":0,"text":"a"}]})",
                  R"({"error":{"message":"out of memory","type":"server_error","code":"oom"}})"}));
  EXPECT_EQ(error.message(), "out of memory");
  EXPECT_EQ(error.reason(), "oom");
  EXPECT_NE(failure_of(sse_answer({R"({"choices":[]})"}, false)).message().find("[DONE]"),
            std::string::npos);
  EXPECT_NE(failure_of(sse_answer({"not json"})).message().find("not JSON"), std::string::npos);
  FakeAnswer cut = sse_answer({R"({"choices":[{"index":0,"text":"a"}]})"});
  cut.pieces.pop_back();
  cut.pieces.pop_back();
  cut.close = true;
  EXPECT_EQ(failure_of(cut).code(), Code::kDataLoss);
}

TEST(Generate, MapsTheErrorsOfTheApi) {
  const auto answer = [](int status, const char* code) {
    return json_answer(
        std::string(R"({"error":{"message":"why","type":"t","param":null,"code":")") + code +
            "\"}}",
        status);
  };
  EXPECT_EQ(failure_of(answer(400, "invalid_value")).code(), Code::kInvalidArgument);
  EXPECT_EQ(failure_of(answer(401, "invalid_api_key")).code(), Code::kUnauthenticated);
  EXPECT_EQ(failure_of(answer(404, "model_not_found")).code(), Code::kNotFound);
  EXPECT_EQ(failure_of(answer(429, "queue_full")).code(), Code::kResourceExhausted);
  const Status loading = failure_of(answer(503, "model_loading"));
  EXPECT_EQ(loading.code(), Code::kUnavailable);
  EXPECT_EQ(loading.reason(), "model_loading");
  EXPECT_EQ(loading.message(), "the server answered 503: why");
  EXPECT_EQ(failure_of(json_answer("<html>", 500)).message(), "the server answered 500");
}

TEST(Generate, AWordThatIsNoUtf8IsStillSent) {
  const std::string body = completion_body("m", std::string("a\xff"), {});
  EXPECT_NE(body.find("a\xef\xbf\xbd"), std::string::npos);
}

}  // namespace
}  // namespace fathom::ctl
