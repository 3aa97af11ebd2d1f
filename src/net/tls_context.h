// TLS of a listener: certificate, key and client CA loaded from files into an immutable context,
// TLS 1.3 only. A slot holds the current context; a rotation loads a new one beside it and swaps.
// Thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

#include "fathom/status.h"

struct ssl_ctx_st;  // OpenSSL's SSL_CTX

namespace fathom::net {

struct TlsFiles {
  std::string cert_file;       // PEM: the leaf first, then its chain (setting tls_cert)
  std::string key_file;        // PEM, not encrypted (setting tls_key)
  std::string client_ca_file;  // PEM bundle (setting tls_client_ca); empty: client certificates are
                               // not asked for
};

// Immutable after load; shared by all connections that were accepted while it was current.
class TlsContext {
 public:
  // Errors name the file and the setting: unreadable, not PEM, encrypted key, key that does not
  // match.
  static Result<std::shared_ptr<const TlsContext>> load(const TlsFiles& files);
  ~TlsContext();
  TlsContext(const TlsContext&) = delete;
  TlsContext& operator=(const TlsContext&) = delete;

  ssl_ctx_st* native() const { return context_; }
  bool requires_client_certificate() const { return requires_client_certificate_; }
  // When the leaf certificate ends, in seconds since 1970.
  int64_t not_after_unix_s() const { return not_after_unix_s_; }

 private:
  TlsContext() = default;
  ssl_ctx_st* context_ = nullptr;
  bool requires_client_certificate_ = false;
  int64_t not_after_unix_s_ = 0;
};

// Where a listener finds the context for its next connection.
class TlsContextSlot {
 public:
  explicit TlsContextSlot(std::shared_ptr<const TlsContext> context)
      : current_(std::move(context)) {}
  std::shared_ptr<const TlsContext> get() const {
    std::lock_guard lock(mutex_);
    return current_;
  }
  void swap(std::shared_ptr<const TlsContext> context) {
    std::lock_guard lock(mutex_);
    current_.swap(context);
  }

 private:
  mutable std::mutex mutex_;
  std::shared_ptr<const TlsContext> current_;
};

}  // namespace fathom::net
