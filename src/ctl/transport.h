// One connection to a server, plain or TLS, with bounded waits. Used by one thread at a time.
#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "ctl/url.h"
#include "fathom/status.h"

struct ssl_ctx_st;  // OpenSSL's SSL_CTX

namespace fathom::ctl {

struct TlsFiles {
  std::string ca_file = {};    // PEM; empty: the system's authorities
  std::string cert_file = {};  // client certificate, PEM; empty: none
  std::string key_file = {};
  bool insecure = false;  // does not verify the server
};

// What all connections of a process share: authorities and client certificate. Immutable.
class TlsClient {
 public:
  // INVALID_ARGUMENT names the file that does not load.
  static Result<std::shared_ptr<const TlsClient>> make(const TlsFiles& files);
  ~TlsClient();
  TlsClient(const TlsClient&) = delete;
  TlsClient& operator=(const TlsClient&) = delete;

  ssl_ctx_st* native() const { return context_; }
  bool verifies() const { return verifies_; }

 private:
  TlsClient() = default;
  ssl_ctx_st* context_ = nullptr;
  bool verifies_ = true;
};

struct WaitBounds {
  std::chrono::milliseconds connect{5'000};  // name to handshake
  std::chrono::milliseconds idle{600'000};   // without a byte, reading or writing
  // Looked at several times a second; a wait that it ends returns kCancelled. May be null.
  const std::atomic<bool>* cancel = nullptr;
};

class Transport {
 public:
  virtual ~Transport() = default;
  // At least one byte, or 0 at the end of the stream. kUnavailable when the connection breaks,
  // kDeadlineExceeded when nothing comes in time.
  virtual Result<size_t> read(std::span<char> into) = 0;
  virtual Status write(std::string_view bytes) = 0;
};

// `tls` is needed for an https url.
Result<std::unique_ptr<Transport>> connect_to(const Url& url, const TlsClient* tls,
                                              const WaitBounds& bounds);

}  // namespace fathom::ctl
