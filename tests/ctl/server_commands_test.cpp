// Commands that talk to a server, against one that says what an OpenAI-style server says.
#include <gtest/gtest.h>

#include "base/json.h"
#include "fake_server.h"
#include "run_command.h"

namespace fathom::ctl {
namespace {

using testing::api_answer;
using testing::FakeAnswer;
using testing::FakeRequest;
using testing::FakeServer;
using testing::json_answer;
using testing::run_command;
using testing::RunOptions;
using testing::sse_answer;

TEST(Chat, OneMessage) {
  FakeServer server(api_answer);
  const auto plain = run_command({"chat", "hi", "--url", server.url(), "--system", "be brief"});
  EXPECT_EQ(plain.code, 0) << plain.err;
  EXPECT_EQ(plain.out, "[reasoning] let me see\n\nHello\n");
  const auto sent = server.requests().back().body;
  EXPECT_NE(sent.find(R"({"role":"system","content":"be brief"})"), std::string::npos);
  EXPECT_NE(sent.find(R"("model":"m1")"), std::string::npos);
}

TEST(Chat, ReasoningIsDimOnATerminal) {
  FakeServer server(api_answer);
  const auto ran = run_command({"chat", "hi", "--url", server.url()}, {.terminal = true});
  EXPECT_EQ(ran.out, "\x1b[2mlet me see\x1b[0m\n\nHello\n");
}

TEST(Chat, ReadsItsMessageFromStandardInput) {
  FakeServer server(api_answer);
  const auto ran =
      run_command({"chat", "--url", server.url(), "--model", "mine"}, {.input = "hi\n"});
  EXPECT_EQ(ran.code, 0);
  EXPECT_NE(server.requests().back().body.find(R"("model":"mine")"), std::string::npos);
  EXPECT_EQ(run_command({"chat", "--url", server.url()}).code, 1);
}

TEST(Chat, PrintsOneJsonDocument) {
  FakeServer server(api_answer);
  const auto ran = run_command({"chat", "hi", "--url", server.url(), "--json", "--max-tokens", "7",
                                "--temperature", "0", "--seed", "3", "--stop", "a", "--stop", "b"});
  const auto body = parse_json(ran.out);
  ASSERT_TRUE(body.is_ok()) << ran.out;
  EXPECT_EQ((*body)["content"], "Hello");
  EXPECT_EQ((*body)["reasoning"], "let me see");
  EXPECT_EQ((*body)["finish_reason"], "stop");
  EXPECT_EQ((*body)["usage"]["completion_tokens"], 5);
  const std::string sent = server.requests().back().body;
  for (const char* field :
       {R"("max_tokens":7)", R"("temperature":0.0)", R"("seed":3)", R"("stop":["a","b"])"}) {
    EXPECT_NE(sent.find(field), std::string::npos) << sent;
  }
}

TEST(Chat, AConversationKeepsItsTurnsUntilReset) {
  FakeServer server(api_answer);
  const auto ran =
      run_command({"chat", "--url", server.url()},
                  {.input = "one\n\ntwo\n/reset\nthree\n/exit\nfour\n", .terminal = true});
  EXPECT_EQ(ran.code, 0);
  std::vector<size_t> turns;
  for (const FakeRequest& r : server.requests()) {
    if (!r.is("POST /v1/chat/completions ")) continue;
    turns.push_back((*parse_json(r.body))["messages"].size());
  }
  EXPECT_EQ(turns, (std::vector<size_t>{1, 3, 1}));
}

TEST(Chat, AnAnswerCannotSteerTheTerminal) {
  FakeServer server([](const FakeRequest& r) {
    if (!r.is("POST /v1/chat")) return api_answer(r);
    return sse_answer({R"({"choices":[{"index":0,"delta":{"content":"a\u001b]0;x\u0007b"}}]})"});
  });
  const auto ran = run_command({"chat", "hi", "--url", server.url()}, {.terminal = true});
  EXPECT_EQ(ran.out, "a]0;xb\n");
  // A file gets the bytes as they are.
  const auto piped = run_command({"chat", "hi", "--url", server.url()});
  EXPECT_EQ(piped.out,
            "a\x1b]0;x\x07"
            "b\n");
}

TEST(Chat, ErrorsHaveTheirExitCodes) {
  const auto code_for = [](int status) {
    FakeServer server([&](const FakeRequest& r) {
      if (!r.is("POST")) return api_answer(r);
      return json_answer(R"({"error":{"message":"no","type":"t","param":null,"code":"c"}})",
                         status);
    });
    return run_command({"chat", "hi", "--url", server.url()}).code;
  };
  EXPECT_EQ(code_for(400), 1);
  EXPECT_EQ(code_for(401), 1);
  EXPECT_EQ(code_for(429), 1);
  EXPECT_EQ(code_for(503), 69);
}

TEST(Chat, SendsTheKeyOfTheEnvironment) {
  FakeServer server(api_answer);
  run_command({"chat", "hi", "--url", server.url()}, {.api_key = "k1"});
  EXPECT_NE(server.requests().back().head.find("Authorization: Bearer k1"), std::string::npos);
}

TEST(Complete, PrintsTheText) {
  FakeServer server(api_answer);
  EXPECT_EQ(run_command({"complete", "zero", "--url", server.url()}).out, "one two\n");
  const auto json = run_command({"complete", "zero", "--url", server.url(), "--json"});
  const auto body = parse_json(json.out);
  ASSERT_TRUE(body.is_ok()) << json.out;
  EXPECT_EQ((*body)["text"], "one two");
  EXPECT_EQ((*body)["finish_reason"], "length");
}

TEST(Tokenize, AsksTheServer) {
  FakeServer server(api_answer);
  EXPECT_EQ(run_command({"tokenize", "x", "--url", server.url()}).out, "5 6 7\n");
  EXPECT_EQ(run_command({"tokenize", "x", "--url", server.url(), "--json"}).out,
            "{\"count\":3,\"tokens\":[5,6,7]}\n");
  EXPECT_EQ(run_command({"tokenize", "--decode", "5, 6 [7]", "--url", server.url()}).out,
            "hello\n");
  EXPECT_NE(server.requests().back().body.find("[5,6,7]"), std::string::npos);
  EXPECT_EQ(run_command({"tokenize", "--decode", "5 x", "--url", server.url()}).code, 1);
}

constexpr const char* kMetricsText =
    "fathom_requests_running{model=\"m1\"} 3\nfathom_requests_waiting{model=\"m1\"} 1\n"
    "fathom_kv_usage_ratio{model=\"m1\"} 0.25\nfathom_generation_tokens_total{model=\"m1\"} 100\n";

FakeAnswer with_metrics(const FakeRequest& r) {
  if (!r.is("GET /metrics ")) return api_answer(r);
  const std::string body = kMetricsText;
  return {
      {"HTTP/1.1 200 OK\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body}};
}

TEST(Status, ShowsAReadyServer) {
  FakeServer server(with_metrics);
  const auto text = run_command({"status", "--url", server.url(), "--metrics-url", server.url()});
  EXPECT_EQ(text.code, 0) << text.err;
  for (const char* part : {"ready", "m1", "9.9", "running    3, waiting 1", "25.0 %"}) {
    EXPECT_NE(text.out.find(part), std::string::npos) << text.out;
  }
  const auto json =
      run_command({"status", "--url", server.url(), "--metrics-url", server.url(), "--json"});
  const auto body = parse_json(json.out);
  ASSERT_TRUE(body.is_ok()) << json.out;
  EXPECT_EQ((*body)["requests_running"], 3.0);
  EXPECT_EQ((*body)["kv_usage_ratio"], 0.25);
  EXPECT_TRUE((*body)["ttft_seconds_p50"].is_null());
}

TEST(Status, AServerThatIsNotReadyIs69) {
  FakeServer server([](const FakeRequest& r) {
    if (r.is("GET /health/ready ")) return json_answer(R"({"status":"model_loading"})", 503);
    return api_answer(r);
  });
  const auto ran =
      run_command({"status", "--url", server.url(), "--metrics-url", "http://127.0.0.1:1"});
  EXPECT_EQ(ran.code, 69);
  EXPECT_NE(ran.out.find("model_loading"), std::string::npos);
  EXPECT_NE(ran.out.find("not reachable"), std::string::npos);
}

TEST(Status, WatchesUntilInterrupted) {
  FakeServer server(with_metrics);
  std::atomic<bool> interrupted{false};
  RunOptions options;
  options.interrupted = &interrupted;
  std::jthread interrupt([&] {
    const auto looks = [&] {
      size_t n = 0;
      for (const FakeRequest& r : server.requests()) n += r.is("GET /metrics ") ? 1 : 0;
      return n;
    };
    while (looks() < 3) std::this_thread::sleep_for(std::chrono::milliseconds(20));
    interrupted = true;
  });
  const auto ran = run_command({"status", "--watch", "--interval", "0.1", "--json", "--url",
                                server.url(), "--metrics-url", server.url()},
                               options);
  EXPECT_EQ(ran.code, 0);
  EXPECT_GE(std::count(ran.out.begin(), ran.out.end(), '\n'), 2);
  EXPECT_NE(ran.out.find("\"generated_tokens_per_second\":0.0"), std::string::npos) << ran.out;
}

}  // namespace
}  // namespace fathom::ctl
