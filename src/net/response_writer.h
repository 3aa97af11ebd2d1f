// How a handler answers: one whole response, or a stream of chunks, from whatever thread it likes.
// Thread-safe and never blocking: every call only queues bytes for the connection's io thread.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>

#include "net/http_message.h"

namespace fathom::net {

// Why a response ended before it was finished.
enum class CloseReason {
  kClientGone,  // end of file, reset or TLS close from the client
  kSlowClient,  // more than the write buffer's bound is queued, or no progress for write_stall_ms
  kServerStopped,  // the drain's bound passed, or the server was stopped
};
std::string_view close_reason_name(
    CloseReason reason);  // "client_gone", "slow_client", "server_stopped"

// The answer to one request. The transport adds Date, Content-Length or Transfer-Encoding, and
// Connection; a header with a name or value that cannot be sent safely (CR, LF, NUL, ...) is left
// out. A writer that every owner has dropped without an answer sends 500 (or cuts an unfinished
// stream).
class ResponseWriter {
 public:
  virtual ~ResponseWriter() = default;

  // The whole response at once. False: the client is gone, or an answer was already begun.
  virtual bool send(int status, const HeaderList& headers, std::string_view body) = 0;

  // A streamed response: the head now (it leaves with the first chunk if that comes soon), then any
  // number of write(), then finish(). On HTTP/1.1 each write is one chunk; all that is queued while
  // a socket write is in flight leaves in the next one. An empty chunk is ignored.
  virtual bool start_stream(int status, const HeaderList& headers) = 0;
  // False: the client is gone or was cut by this very write; nothing more needs to be written.
  // A chunk of any size may be queued when none is; behind it, write_buffer_bytes_max more. What
  // passes that cuts the connection (kSlowClient).
  virtual bool write(std::string_view chunk) = 0;
  virtual bool finish() = 0;

  // Cuts the connection without finishing, so that the client sees a broken response, not a short
  // one. on_close is not called.
  virtual void abort() = 0;

  // `callback` is called exactly once if the response ends before finish() or send(): on the
  // connection's io thread as soon as the client's departure is seen (even while nothing is
  // written), or inside this call if that has happened already. It must not block. Never called
  // after a finished response; then it is released. A second on_close replaces the first.
  virtual void on_close(std::function<void(CloseReason)> callback) = 0;

  // True once the client is gone or the connection is cut.
  virtual bool closed() const = 0;

  // Bytes queued here and not yet taken by the socket.
  virtual size_t buffered_bytes() const = 0;
};

}  // namespace fathom::net
