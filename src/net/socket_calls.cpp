// See socket_calls.h.
#include "net/socket_calls.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>

namespace fathom::net {

namespace {

std::string address_text(const std::string& host, uint16_t port) {
  const bool v6 = host.find(':') != std::string::npos;
  return (v6 ? "[" + host + "]" : host) + ":" + std::to_string(port);
}

std::string error_text(int error) { return std::strerror(error); }

// Returns the descriptor, or the errno of the call that failed as a negative number.
int try_listen(const addrinfo& address) {
  const int descriptor =
      ::socket(address.ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, address.ai_protocol);
  if (descriptor < 0) return -errno;
  const int on = 1;
  ::setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (address.ai_family == AF_INET6) {
    ::setsockopt(descriptor, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
  }
  if (::bind(descriptor, address.ai_addr, address.ai_addrlen) != 0 ||
      ::listen(descriptor, SOMAXCONN) != 0) {
    const int error = errno;
    ::close(descriptor);
    return -error;
  }
  return descriptor;
}

uint16_t bound_port(int descriptor) {
  sockaddr_storage storage{};
  socklen_t size = sizeof storage;
  ::getsockname(descriptor, reinterpret_cast<sockaddr*>(&storage), &size);
  if (storage.ss_family == AF_INET6) {
    return ntohs(reinterpret_cast<const sockaddr_in6&>(storage).sin6_port);
  }
  return ntohs(reinterpret_cast<const sockaddr_in&>(storage).sin_port);
}

}  // namespace

Result<BoundSocket> listen_on(const std::string& host, uint16_t port) {
  const std::string where = address_text(host, port);
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int rc = ::getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found);
  if (rc != 0) {
    return invalid_argument("cannot resolve the listen address " + where + ": " + gai_strerror(rc));
  }
  std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner(found, ::freeaddrinfo);
  int error = EADDRNOTAVAIL;
  for (const addrinfo* address = found; address != nullptr; address = address->ai_next) {
    const int descriptor = try_listen(*address);
    if (descriptor >= 0) return BoundSocket{descriptor, bound_port(descriptor)};
    error = -descriptor;
  }
  return unavailable("cannot listen on " + where + ": " + error_text(error));
}

std::variant<Accepted, AcceptFailure> accept_from(int listener) {
  for (;;) {
    sockaddr_storage storage{};
    socklen_t size = sizeof storage;
    const int descriptor = ::accept4(listener, reinterpret_cast<sockaddr*>(&storage), &size,
                                     SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (descriptor >= 0) return Accepted{descriptor, format_address(storage)};
    switch (errno) {
      case EAGAIN: return AcceptFailure::kWouldBlock;
      case EMFILE:
      case ENFILE:
      case ENOBUFS:
      case ENOMEM: return AcceptFailure::kExhausted;
      case EBADF:
      case EINVAL:
      case ENOTSOCK: return AcceptFailure::kWouldBlock;
      default: break;  // an error of the one connection that was about to be accepted: try the next
    }
  }
}

void tune_connection(int descriptor, size_t send_buffer_bytes) {
  const int on = 1;
  ::setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  if (send_buffer_bytes > 0) {
    const int bytes = static_cast<int>(send_buffer_bytes);
    ::setsockopt(descriptor, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
  }
}

void reset_on_close(int descriptor) {
  const linger drop{1, 0};
  ::setsockopt(descriptor, SOL_SOCKET, SO_LINGER, &drop, sizeof drop);
}

bool peer_has_left(int descriptor) {
  pollfd poll_entry{descriptor, POLLRDHUP, 0};
  if (::poll(&poll_entry, 1, 0) <= 0) return false;
  return (poll_entry.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
}

std::string format_address(const sockaddr_storage& address) {
  char text[INET6_ADDRSTRLEN] = "";
  if (address.ss_family == AF_INET6) {
    const auto& v6 = reinterpret_cast<const sockaddr_in6&>(address);
    ::inet_ntop(AF_INET6, &v6.sin6_addr, text, sizeof text);
    return address_text(text, ntohs(v6.sin6_port));
  }
  const auto& v4 = reinterpret_cast<const sockaddr_in&>(address);
  ::inet_ntop(AF_INET, &v4.sin_addr, text, sizeof text);
  return address_text(text, ntohs(v4.sin_port));
}

}  // namespace fathom::net
