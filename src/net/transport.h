// The bytes of one connection: plain TCP or TLS over the same non-blocking descriptor. Owned by a
// Connection, used on its io thread only. It does not own the descriptor.
#pragma once

#include <cstddef>
#include <memory>
#include <span>

#include "net/peer_identity.h"
#include "net/tls_context.h"

namespace fathom::net {

enum class IoStatus {
  kDone,        // `bytes` were moved (or the handshake is complete)
  kWantsRead,   // nothing until the descriptor is readable
  kWantsWrite,  // nothing until the descriptor is writable
  kEnd,         // the peer has ended its side
  kFailed,
};

struct IoResult {
  IoStatus status = IoStatus::kFailed;
  size_t bytes = 0;
};

class Transport {
 public:
  explicit Transport(int descriptor) : descriptor_(descriptor) {}
  virtual ~Transport() = default;
  virtual IoResult handshake() = 0;
  virtual IoResult read(char* data, size_t size) = 0;
  virtual IoResult write(const char* data, size_t size) = 0;
  // Reads and drops what the descriptor holds, below any TLS: for a connection that is closing.
  IoResult discard(std::span<char> scratch);
  // Ends our side: the peer sees end of file after what was written.
  virtual void shutdown_write() = 0;
  // True when bytes may be waiting inside the transport that the descriptor's readiness does not
  // tell of.
  virtual bool buffers_input() const = 0;
  virtual PeerIdentity peer() const = 0;

 protected:
  const int descriptor_;
};

std::unique_ptr<Transport> make_plain_transport(int descriptor);

// Null when OpenSSL has no memory. Keeps `context` alive.
std::unique_ptr<Transport> make_tls_transport(int descriptor,
                                              std::shared_ptr<const TlsContext> context);

}  // namespace fathom::net
