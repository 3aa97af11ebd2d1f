#include "fake_server.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>

namespace fathom::ctl::testing {
namespace {

size_t content_length(const std::string& head) {
  const size_t at = head.find("Content-Length: ");
  return at == std::string::npos ? 0 : std::stoul(head.substr(at + 16));
}

bool send_all(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n <= 0) return false;
    bytes.remove_prefix(static_cast<size_t>(n));
  }
  return true;
}

// Reads one request from `fd`; bytes of the next stay in `buffer`.
bool read_request(int fd, std::string& buffer, FakeRequest& request) {
  while (true) {
    const size_t end = buffer.find("\r\n\r\n");
    if (end != std::string::npos) {
      request.head = buffer.substr(0, end + 2);
      const size_t length = content_length(request.head);
      if (buffer.size() >= end + 4 + length) {
        request.body = buffer.substr(end + 4, length);
        buffer.erase(0, end + 4 + length);
        return true;
      }
    }
    char bytes[4096];
    const ssize_t n = ::recv(fd, bytes, sizeof(bytes), 0);
    if (n <= 0) return false;
    buffer.append(bytes, static_cast<size_t>(n));
  }
}

}  // namespace

FakeServer::FakeServer(std::function<FakeAnswer(const FakeRequest&)> answer)
    : answer_(std::move(answer)) {
  listener_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  EXPECT_EQ(::bind(listener_, reinterpret_cast<sockaddr*>(&address), size), 0);
  EXPECT_EQ(::listen(listener_, 128), 0);
  ::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size);
  port_ = ntohs(address.sin_port);
  acceptor_ = std::jthread([this] { accept_loop(); });
}

FakeServer::~FakeServer() {
  stopping_ = true;
  ::shutdown(listener_, SHUT_RDWR);
  acceptor_.join();
  {
    std::lock_guard lock(mutex_);
    for (const int fd : open_) ::shutdown(fd, SHUT_RDWR);
  }
  threads_.clear();
  for (const int fd : open_) ::close(fd);
  ::close(listener_);
}

std::vector<FakeRequest> FakeServer::requests() const {
  std::lock_guard lock(mutex_);
  return requests_;
}

void FakeServer::accept_loop() {
  while (!stopping_) {
    const int fd = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    if (fd < 0) return;
    ++connections_;
    std::lock_guard lock(mutex_);
    open_.push_back(fd);
    threads_.emplace_back([this, fd] { serve(fd); });
  }
}

void FakeServer::serve(int fd) {
  std::string buffer;
  FakeRequest request;
  while (!stopping_ && read_request(fd, buffer, request)) {
    {
      std::lock_guard lock(mutex_);
      requests_.push_back(request);
    }
    const FakeAnswer answer = answer_(request);
    bool first = true;
    for (const std::string& piece : answer.pieces) {
      if (!first && answer.pause_ms > 0) {
        std::this_thread::sleep_for(std::chrono::milliseconds(answer.pause_ms));
      }
      first = false;
      if (!send_all(fd, piece)) return;
    }
    if (answer.close) {
      ::shutdown(fd, SHUT_RDWR);
      return;
    }
  }
}

FakeAnswer json_answer(const std::string& body, int status) {
  return {{"HTTP/1.1 " + std::to_string(status) + " X\r\nContent-Type: application/json\r\n" +
           "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body}};
}

FakeAnswer sse_answer(const std::vector<std::string>& events, bool done) {
  FakeAnswer answer;
  answer.pieces.push_back(
      "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
      "Transfer-Encoding: chunked\r\n\r\n");
  std::vector<std::string> all = events;
  if (done) all.push_back("[DONE]");
  for (const std::string& event : all) {
    const std::string text = "data: " + event + "\n\n";
    char size[32];
    std::snprintf(size, sizeof(size), "%zx\r\n", text.size());
    answer.pieces.push_back(size + text + "\r\n");
  }
  answer.pieces.push_back("0\r\n\r\n");
  return answer;
}

FakeAnswer api_answer(const FakeRequest& request) {
  if (request.is("GET /v1/models "))
    return json_answer(R"({"object":"list","data":[{"id":"m1"}]})");
  if (request.is("GET /version ")) return json_answer(R"({"version":"9.9","commit":"abc"})");
  if (request.is("GET /health/ready ")) return json_answer(R"({"status":"ready"})");
  if (request.is("POST /tokenize ")) {
    return json_answer(R"({"count":3,"max_model_len":100,"tokens":[5,6,7]})");
  }
  if (request.is("POST /detokenize ")) return json_answer(R"({"prompt":"hello"})");
  if (request.is("POST /v1/chat/completions ")) {
    return sse_answer(
        {R"({"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]})",
         R"({"choices":[{"index":0,"delta":{"reasoning_content":"let me see"}}]})",
         R"({"choices":[{"index":0,"delta":{"content":"Hel"}}]})",
         R"({"choices":[{"index":0,"delta":{"content":"lo"}}]})",
         R"({"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]})",
         R"({"choices":[],"usage":{"prompt_tokens":4,"completion_tokens":5,"total_tokens":9,)"
         R"("prompt_tokens_details":{"cached_tokens":2}}})"});
  }
  if (request.is("POST /v1/completions ")) {
    return sse_answer({R"({"choices":[{"index":0,"text":"one","finish_reason":null}]})",
                       R"({"choices":[{"index":0,"text":" two","finish_reason":"length"}]})",
                       R"({"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}})"});
  }
  return json_answer(R"({"error":{"message":"no such path","param":null,"code":"unknown_url"}})",
                     404);
}

}  // namespace fathom::ctl::testing
