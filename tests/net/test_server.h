// A server on an ephemeral loopback port whose handler keeps its requests for the test to answer.
#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "net/http_server.h"

namespace fathom::net {

struct HeldRequest {
  HttpRequest request;
  std::shared_ptr<ResponseWriter> response;
};

// Answers /echo with the body, /hello with "hello"; on_headers refuses /denied with 401. Everything
// else is held until take() hands it to the test. Errors have the body "<status> <code>".
class TestHandler final : public HttpHandler {
 public:
  std::optional<HttpReply> on_headers(const HttpRequest& request) override;
  void on_request(HttpRequest request, std::shared_ptr<ResponseWriter> response) override;
  HttpReply on_error(int status, std::string_view code, std::string_view message) override;

  // The oldest held request; nullopt when none comes within `timeout_ms`.
  std::optional<HeldRequest> take(int timeout_ms = 5000);
  size_t seen() const;

 private:
  mutable std::mutex mutex_;
  std::condition_variable arrived_;
  std::deque<HeldRequest> held_;
  size_t seen_ = 0;
};

struct TestServer {
  std::shared_ptr<TestHandler> handler = std::make_shared<TestHandler>();
  std::unique_ptr<HttpServer> server;

  explicit TestServer(HttpLimits limits = {}, std::shared_ptr<TlsContextSlot> tls = nullptr,
                      size_t io_threads = 2);
  uint16_t port() const { return server->port(0); }
};

// Counts the calls of an on_close and waits for them.
class CloseWatcher {
 public:
  void watch(ResponseWriter& response);
  // The reason; nullopt when none came within `timeout_ms`.
  std::optional<CloseReason> wait(int timeout_ms = 5000);
  int calls() const;

 private:
  struct State {
    std::mutex mutex;
    std::condition_variable changed;
    std::vector<CloseReason> reasons;
  };
  std::shared_ptr<State> state_ = std::make_shared<State>();
};

}  // namespace fathom::net
