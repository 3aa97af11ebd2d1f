// A server of a few lines for the client's tests: it answers every request with the bytes that the
// test gives, in the pieces that the test wants, well-formed or not. One thread a connection.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace fathom::ctl::testing {

struct FakeRequest {
  std::string head;  // request line and fields
  std::string body;
  bool is(std::string_view start) const { return head.starts_with(start); }
};

// What is written back, piece by piece; then the connection is closed if `close` says so.
struct FakeAnswer {
  std::vector<std::string> pieces;
  bool close = false;
  int pause_ms = 0;  // before each piece but the first
};

class FakeServer {
 public:
  explicit FakeServer(std::function<FakeAnswer(const FakeRequest&)> answer);
  ~FakeServer();

  std::string url() const { return "http://127.0.0.1:" + std::to_string(port_); }
  int connections() const { return connections_; }
  std::vector<FakeRequest> requests() const;

 private:
  void accept_loop();
  void serve(int fd);

  std::function<FakeAnswer(const FakeRequest&)> answer_;
  int listener_ = -1;
  uint16_t port_ = 0;
  std::atomic<int> connections_{0};
  std::atomic<bool> stopping_{false};
  mutable std::mutex mutex_;
  std::vector<FakeRequest> requests_;
  std::vector<int> open_;
  std::vector<std::jthread> threads_;
  std::jthread acceptor_;
};

// Whole answers.
FakeAnswer json_answer(const std::string& body, int status = 200);
// An event stream in chunked coding, one chunk an event; [DONE] is added when `done`.
FakeAnswer sse_answer(const std::vector<std::string>& events, bool done = true);
// What an OpenAI-style server says: /v1/models, /tokenize, /version, health, chat and completions.
FakeAnswer api_answer(const FakeRequest& request);

}  // namespace fathom::ctl::testing
