// A blocking TLS client for tests: what it offers and what it presents is up to the test.
#pragma once

#include <openssl/ssl.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "raw_client.h"
#include "test_pki.h"

namespace fathom::net {

struct TlsClientOptions {
  const TestCertificate* certificate = nullptr;  // presented when asked for
  int version_max = TLS1_3_VERSION;
  std::string alpn = {};  // in wire form: "\x08http/1.1"
  int receive_buffer_bytes = 0;
};

class TlsClient {
 public:
  // Trusts `authority` for the server. Reads give up after 5 s.
  TlsClient(uint16_t port, const TestCertificate& authority, const TlsClientOptions& options = {});
  ~TlsClient();
  TlsClient(const TlsClient&) = delete;
  TlsClient& operator=(const TlsClient&) = delete;

  // The client's view: in TLS 1.3 it ends before the server has judged the client certificate.
  bool handshake_done() const { return handshake_done_; }
  bool send(std::string_view bytes);
  // False at the end, on an error or on the deadline.
  bool read_until(std::string_view text);
  // A response with Content-Length; its body.
  std::optional<std::string> read_body();
  const std::string& buffer() const { return buffer_; }
  void clear() { buffer_.clear(); }

  std::string protocol() const;     // chosen by ALPN
  std::string peer_serial() const;  // of the server's certificate, decimal
  int sessions_received() const { return sessions_; }
  void close_notify();
  RawClient& socket() { return socket_; }

 private:
  bool read_more();

  RawClient socket_;
  SSL_CTX* context_;
  SSL* ssl_;
  bool handshake_done_ = false;
  int sessions_ = 0;
  std::string buffer_;
};

}  // namespace fathom::net
