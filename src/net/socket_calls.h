// The few socket calls of the server, with every descriptor close-on-exec and non-blocking from
// birth (asio's own accept and open leave a window in which a spawned engine would inherit them).
// Stateless.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <variant>

#include "fathom/status.h"

struct sockaddr_storage;

namespace fathom::net {

struct BoundSocket {
  int descriptor = -1;
  uint16_t port = 0;
};

// Resolves `host`, binds its first address that works, and listens. Errors name the address.
Result<BoundSocket> listen_on(const std::string& host, uint16_t port);

struct Accepted {
  int descriptor = -1;
  std::string remote_address;
};
enum class AcceptFailure {
  kNone,
  kWouldBlock,
  kExhausted
};  // kExhausted: no descriptors or memory now
std::variant<Accepted, AcceptFailure> accept_from(int listener);

// TCP_NODELAY, and SO_SNDBUF unless `send_buffer_bytes` is 0.
void tune_connection(int descriptor, size_t send_buffer_bytes);

// Makes close() drop unsent bytes and answer with a reset.
void reset_on_close(int descriptor);

// True when the peer has shut down its side or the connection is broken, even behind unread bytes.
bool peer_has_left(int descriptor);

std::string format_address(const sockaddr_storage& address);

}  // namespace fathom::net
