// HTTP/1.1 server: listeners, io threads and limits. It knows bytes, requests and responses;
// routes, authorization and the shape of errors belong to the HttpHandler. One object a daemon,
// made and stopped by its main thread.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "fathom/status.h"
#include "net/http_message.h"
#include "net/response_writer.h"
#include "net/tls_context.h"

namespace fathom::net {

// What answers the requests of a listener. Called on io threads, by several at once: it must be
// thread-safe, must not block, and must outlive the server. Work of more than ~100 microseconds
// belongs on another thread.
class HttpHandler {
 public:
  virtual ~HttpHandler() = default;

  // The head of a request is known and its body is not read yet (`request.body` is empty). A reply
  // refuses the request without reading the body: the place for 401, 403, 404, 405 and 503. Not
  // called for a malformed head.
  virtual std::optional<HttpReply> on_headers(const HttpRequest& request) {
    (void)request;
    return std::nullopt;
  }

  // The whole request. Answer through `response`, now or later, from any thread.
  virtual void on_request(HttpRequest request, std::shared_ptr<ResponseWriter> response) = 0;

  // The reply for a request that the transport itself refuses. `status` is final; `code` is a
  // stable word
  // ("malformed_request", "request_too_large", "headers_too_large", "uri_too_long",
  // "request_timeout", "expectation_failed", "unsupported_transfer_encoding",
  // "http_version_not_supported", "too_many_connections", "overloaded", "internal_error");
  // `message` is a sentence for a human.
  virtual HttpReply on_error(int status, std::string_view code, std::string_view message) = 0;
};

// Limits of one listener. The defaults are those of docs/configuration.md.
struct HttpLimits {
  size_t header_bytes_max = 16 * 1024;  // request line and fields
  size_t header_fields_max = 100;
  size_t target_bytes_max = 4 * 1024;
  size_t body_bytes_max = 32 * 1024 * 1024;
  // Bodies that are being read, over all connections of the listener; what passes it gets 503.
  size_t bodies_bytes_max = size_t{512} * 1024 * 1024;
  size_t write_buffer_bytes_max = 256 * 1024;  // queued behind the chunk in flight, per stream
  size_t connections_max = 4096;
  size_t socket_send_buffer_bytes = 0;  // SO_SNDBUF; 0: the kernel's choice
  uint32_t header_timeout_ms = 5'000;   // from the first byte of a head to its last
  uint32_t idle_timeout_ms = 60'000;    // keep-alive without a request; a body without a byte
  uint32_t tls_handshake_timeout_ms = 5'000;
  uint32_t write_stall_ms = 30'000;           // unsent bytes and no progress
  uint32_t body_rate_bytes_per_s_min = 1024;  // after the first 5 s of a body
};

struct ListenerConfig {
  std::string name;                      // for errors and logs: "http", "admin", "metrics"
  std::string host = "127.0.0.1";        // IPv4 or IPv6 address, or a name that resolves to one
  uint16_t port = 0;                     // 0: the kernel picks one; HttpServer::port says which
  std::shared_ptr<TlsContextSlot> tls;   // null: plaintext
  std::shared_ptr<HttpHandler> handler;  // required
  HttpLimits limits;
};

struct HttpServerConfig {
  std::vector<ListenerConfig> listeners;
  size_t io_threads = 0;  // 0: min(4, cores)
};

// Counters since the start; read from any thread.
struct HttpServerStats {
  uint64_t connections_accepted = 0;
  uint64_t connections_open = 0;
  uint64_t connections_refused = 0;  // over connections_max
  uint64_t handshakes_failed = 0;
  uint64_t requests = 0;            // handed to a handler
  uint64_t requests_malformed = 0;  // refused by the transport
  uint64_t slow_clients_cut = 0;
  uint64_t clients_gone = 0;  // before their response was finished
  uint64_t socket_writes = 0;
  uint64_t bytes_sent = 0;
};

class HttpServer {
 public:
  // Binds every listener, then starts the io threads. Errors name the listener, the address and the
  // reason.
  static Result<std::unique_ptr<HttpServer>> start(HttpServerConfig config);
  ~HttpServer();  // stop()

  // The port that listener `index` is bound to.
  uint16_t port(size_t index) const;

  // Stops accepting and closes idle connections; every response from now on says "Connection:
  // close". Returns at once.
  void begin_drain();
  // Waits until no connection is open, at most `bound`. True: all ended by themselves.
  bool wait_drained(std::chrono::milliseconds bound);
  // Cuts what is left (on_close says kServerStopped) and joins the io threads. Idempotent.
  // Not to be called on an io thread.
  void stop();

  HttpServerStats stats() const;

 private:
  class Impl;
  explicit HttpServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace fathom::net
