// Plain TCP; see transport.h.
#include <sys/socket.h>

#include <cerrno>

#include "net/transport.h"

namespace fathom::net {

namespace {

IoResult receive(int descriptor, char* data, size_t size) {
  for (;;) {
    const ssize_t n = ::recv(descriptor, data, size, 0);
    if (n > 0) return {IoStatus::kDone, static_cast<size_t>(n)};
    if (n == 0) return {IoStatus::kEnd, 0};
    if (errno == EAGAIN) return {IoStatus::kWantsRead, 0};
    if (errno != EINTR) return {IoStatus::kFailed, 0};
  }
}

class PlainTransport final : public Transport {
 public:
  using Transport::Transport;

  IoResult handshake() override { return {IoStatus::kDone, 0}; }

  IoResult read(char* data, size_t size) override { return receive(descriptor_, data, size); }

  IoResult write(const char* data, size_t size) override {
    for (;;) {
      const ssize_t n = ::send(descriptor_, data, size, MSG_NOSIGNAL);
      if (n >= 0) return {IoStatus::kDone, static_cast<size_t>(n)};
      if (errno == EAGAIN) return {IoStatus::kWantsWrite, 0};
      if (errno != EINTR) return {IoStatus::kFailed, 0};
    }
  }

  void shutdown_write() override { ::shutdown(descriptor_, SHUT_WR); }
  bool buffers_input() const override { return false; }
  PeerIdentity peer() const override { return {}; }
};

}  // namespace

IoResult Transport::discard(std::span<char> scratch) {
  return receive(descriptor_, scratch.data(), scratch.size());
}

std::unique_ptr<Transport> make_plain_transport(int descriptor) {
  return std::make_unique<PlainTransport>(descriptor);
}

}  // namespace fathom::net
