// See test_server.h.
#include "test_server.h"

#include <gtest/gtest.h>

#include <chrono>
#include <utility>

namespace fathom::net {

std::optional<HttpReply> TestHandler::on_headers(const HttpRequest& request) {
  if (request.path != "/denied") return std::nullopt;
  return HttpReply{401, {{"content-type", "text/plain"}}, "denied"};
}

void TestHandler::on_request(HttpRequest request, std::shared_ptr<ResponseWriter> response) {
  std::unique_lock lock(mutex_);
  ++seen_;
  if (request.path == "/echo" || request.path == "/hello") {
    lock.unlock();
    response->send(200, {{"x-method", request.method}, {"x-query", request.query}},
                   request.path == "/echo" ? request.body : "hello");
    return;
  }
  held_.push_back({std::move(request), std::move(response)});
  arrived_.notify_all();
}

HttpReply TestHandler::on_error(int status, std::string_view code, std::string_view) {
  return {
      status, {{"content-type", "text/plain"}}, std::to_string(status) + " " + std::string(code)};
}

std::optional<HeldRequest> TestHandler::take(int timeout_ms) {
  std::unique_lock lock(mutex_);
  if (!arrived_.wait_for(lock, std::chrono::milliseconds(timeout_ms),
                         [this] { return !held_.empty(); })) {
    return std::nullopt;
  }
  HeldRequest first = std::move(held_.front());
  held_.pop_front();
  return first;
}

size_t TestHandler::seen() const {
  std::lock_guard lock(mutex_);
  return seen_;
}

TestServer::TestServer(HttpLimits limits, std::shared_ptr<TlsContextSlot> tls, size_t io_threads) {
  HttpServerConfig config;
  config.io_threads = io_threads;
  config.listeners.push_back({"test", "127.0.0.1", 0, std::move(tls), handler, limits});
  auto started = HttpServer::start(std::move(config));
  EXPECT_TRUE(started.is_ok()) << started.status().to_string();
  server = std::move(started).value();
}

void CloseWatcher::watch(ResponseWriter& response) {
  response.on_close([state = state_](CloseReason reason) {
    std::lock_guard lock(state->mutex);
    state->reasons.push_back(reason);
    state->changed.notify_all();
  });
}

std::optional<CloseReason> CloseWatcher::wait(int timeout_ms) {
  std::unique_lock lock(state_->mutex);
  state_->changed.wait_for(lock, std::chrono::milliseconds(timeout_ms),
                           [this] { return !state_->reasons.empty(); });
  if (state_->reasons.empty()) return std::nullopt;
  return state_->reasons.front();
}

int CloseWatcher::calls() const {
  std::lock_guard lock(state_->mutex);
  return static_cast<int>(state_->reasons.size());
}

}  // namespace fathom::net
