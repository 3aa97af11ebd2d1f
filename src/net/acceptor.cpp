// See acceptor.h.
#include "net/acceptor.h"

#include <sys/socket.h>
#include <unistd.h>

#include <utility>

#include "net/io_thread.h"
#include "net/response.h"
#include "net/socket_calls.h"

namespace fathom::net {

namespace {

// Connections accepted in one turn, before the thread looks at its other sockets.
constexpr int kAcceptsPerTurn = 64;

}  // namespace

Acceptor::Acceptor(IoThread& home, std::vector<IoThread*> targets, ListenerState& listener,
                   Watch watch)
    : home_(home), targets_(std::move(targets)), listener_(listener), watch_(std::move(watch)) {}

void Acceptor::arm() { watch_.arm_read(shared_from_this()); }

void Acceptor::on_readable() {
  for (int turn = 0; turn < kAcceptsPerTurn && !closed_; ++turn) {
    auto accepted = accept_from(watch_.descriptor());
    if (const auto* failure = std::get_if<AcceptFailure>(&accepted)) {
      if (*failure == AcceptFailure::kExhausted) {
        paused_ = true;
        home_.ensure_tick();
        return;
      }
      break;
    }
    auto& connection = std::get<Accepted>(accepted);
    count(listener_.server->counters.accepted);
    if (listener_.open.load(std::memory_order_relaxed) >= listener_.config.limits.connections_max) {
      refuse(connection.descriptor);
      continue;
    }
    listener_.open.fetch_add(1, std::memory_order_relaxed);
    listener_.server->connection_opened();
    targets_[next_target_++ % targets_.size()]->adopt(listener_, std::move(connection));
  }
  if (!closed_) arm();
}

// Says why on plaintext, as far as one write can; a TLS client only sees the end.
void Acceptor::refuse(int descriptor) {
  count(listener_.server->counters.refused);
  if (!listener_.config.tls) {
    const HttpReply reply = listener_.config.handler->on_error(
        503, "too_many_connections", "The server has as many connections as it may have.");
    std::string text;
    append_response_head(text, 503, reply.headers);
    text.append("Connection: close\r\nContent-Length: ").append(std::to_string(reply.body.size()));
    text.append("\r\n\r\n").append(reply.body);
    // Best effort: the client is refused whether it reads the reason or not.
    if (::send(descriptor, text.data(), text.size(), MSG_NOSIGNAL | MSG_DONTWAIT) > 0) {
      ::shutdown(descriptor, SHUT_WR);
    }
  }
  ::close(descriptor);
}

void Acceptor::resume() {
  if (!paused_ || closed_) return;
  paused_ = false;
  on_readable();
}

void Acceptor::close() {
  closed_ = true;
  paused_ = false;
  watch_.close();
}

}  // namespace fathom::net
