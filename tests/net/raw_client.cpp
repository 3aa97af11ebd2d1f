// See raw_client.h.
#include "raw_client.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdlib>

namespace fathom::net {

int64_t test_now_ms() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

RawClient::RawClient(uint16_t port, int receive_buffer_bytes) {
  descriptor_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (receive_buffer_bytes > 0) {
    ::setsockopt(descriptor_, SOL_SOCKET, SO_RCVBUF, &receive_buffer_bytes, sizeof(int));
  }
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (::connect(descriptor_, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) close();
}

RawClient::~RawClient() { close(); }

bool RawClient::send(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::send(descriptor_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n <= 0) return false;
    bytes.remove_prefix(static_cast<size_t>(n));
  }
  return true;
}

size_t RawClient::send_some(std::string_view bytes) {
  const ssize_t n = ::send(descriptor_, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  return n > 0 ? static_cast<size_t>(n) : 0;
}

bool RawClient::read_more(int64_t deadline_ms) {
  if (ended_ || descriptor_ < 0) return false;
  const int64_t left_ms = std::max<int64_t>(deadline_ms - test_now_ms(), 0);
  pollfd entry{descriptor_, POLLIN, 0};
  if (::poll(&entry, 1, static_cast<int>(left_ms)) <= 0) return false;
  std::array<char, 16384> bytes;
  const ssize_t n = ::recv(descriptor_, bytes.data(), bytes.size(), 0);
  if (n <= 0) {
    ended_ = true;
    reset_ = n < 0 && errno == ECONNRESET;
    return false;
  }
  buffer_.append(bytes.data(), static_cast<size_t>(n));
  return true;
}

bool RawClient::read_until(std::string_view text, int timeout_ms) {
  const int64_t deadline_ms = test_now_ms() + timeout_ms;
  while (buffer_.find(text) == std::string::npos) {
    if (!read_more(deadline_ms)) return false;
  }
  return true;
}

bool RawClient::read_to_end(int timeout_ms) {
  const int64_t deadline_ms = test_now_ms() + timeout_ms;
  while (read_more(deadline_ms)) {
  }
  return ended_;
}

std::optional<std::string> RawClient::read_chunks(RawResponse& response, size_t& at,
                                                  int64_t deadline_ms) {
  std::string body;
  for (;;) {
    size_t line_end;
    while ((line_end = buffer_.find("\r\n", at)) == std::string::npos) {
      if (!read_more(deadline_ms)) return std::nullopt;
    }
    const size_t size = std::strtoul(buffer_.c_str() + at, nullptr, 16);
    const size_t next = line_end + 2 + size + 2;
    while (buffer_.size() < next) {
      if (!read_more(deadline_ms)) return std::nullopt;
    }
    if (buffer_.compare(next - 2, 2, "\r\n") != 0) return std::nullopt;
    body.append(buffer_, line_end + 2, size);
    at = next;
    if (size == 0) return body;
    ++response.chunks;
  }
}

std::optional<RawResponse> RawClient::read_response(int timeout_ms, bool head_only) {
  const int64_t deadline_ms = test_now_ms() + timeout_ms;
  size_t head_end;
  while ((head_end = buffer_.find("\r\n\r\n")) == std::string::npos) {
    if (!read_more(deadline_ms)) return std::nullopt;
  }
  RawResponse response;
  response.status = std::atoi(buffer_.c_str() + sizeof "HTTP/1.1");
  for (size_t at = buffer_.find("\r\n") + 2; at < head_end;) {
    const size_t end = buffer_.find("\r\n", at);
    const size_t colon = buffer_.find(": ", at);
    std::string name = buffer_.substr(at, colon - at);
    std::transform(name.begin(), name.end(), name.begin(), ::tolower);
    response.headers[name] = buffer_.substr(colon + 2, end - colon - 2);
    at = end + 2;
  }
  size_t at = head_end + 4;
  if (head_only || response.status == 204 || response.status < 200) {
    buffer_.erase(0, at);
    return response;
  }
  if (response.headers.contains("transfer-encoding")) {
    auto body = read_chunks(response, at, deadline_ms);
    if (!body) return std::nullopt;
    response.body = *std::move(body);
  } else if (response.headers.contains("content-length")) {
    const size_t size = std::strtoul(response.headers["content-length"].c_str(), nullptr, 10);
    while (buffer_.size() < at + size) {
      if (!read_more(deadline_ms)) return std::nullopt;
    }
    response.body = buffer_.substr(at, size);
    at += size;
  } else {
    while (read_more(deadline_ms)) {
    }
    if (!ended_) return std::nullopt;
    response.body = buffer_.substr(at);
    at = buffer_.size();
  }
  buffer_.erase(0, at);
  return response;
}

void RawClient::shutdown_write() { ::shutdown(descriptor_, SHUT_WR); }

void RawClient::reset() {
  const linger drop{1, 0};
  ::setsockopt(descriptor_, SOL_SOCKET, SO_LINGER, &drop, sizeof drop);
  close();
}

void RawClient::close() {
  if (descriptor_ >= 0) ::close(descriptor_);
  descriptor_ = -1;
}

}  // namespace fathom::net
