// TLS by OpenSSL straight on the non-blocking descriptor; see transport.h. The BIO is ours because
// OpenSSL's own socket BIO uses write(2), which raises SIGPIPE when the peer is gone.
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <sys/socket.h>

#include <cerrno>
#include <climits>
#include <cstdint>

#include "net/transport.h"

namespace fathom::net {

namespace {

int bio_descriptor(BIO* bio) {
  return static_cast<int>(reinterpret_cast<intptr_t>(BIO_get_data(bio)));
}

int bio_finish(BIO* bio, ssize_t n, bool reading) {
  BIO_clear_retry_flags(bio);
  if (n >= 0) return static_cast<int>(n);
  if (errno == EAGAIN || errno == EINTR) {
    if (reading) {
      BIO_set_retry_read(bio);
    } else {
      BIO_set_retry_write(bio);
    }
  }
  return -1;
}

int bio_read(BIO* bio, char* data, int size) {
  return bio_finish(bio, ::recv(bio_descriptor(bio), data, static_cast<size_t>(size), 0), true);
}

int bio_write(BIO* bio, const char* data, int size) {
  const auto bytes = static_cast<size_t>(size);
  return bio_finish(bio, ::send(bio_descriptor(bio), data, bytes, MSG_NOSIGNAL), false);
}

long bio_control(BIO*, int command, long,
                 void*) {  // NOLINT(google-runtime-int): OpenSSL's signature
  return command == BIO_CTRL_FLUSH ? 1 : 0;
}

// Made once, read by all threads, never freed: OpenSSL wants it to outlive every BIO.
BIO_METHOD* socket_bio_method() {
  static BIO_METHOD* const method = [] {
    BIO_METHOD* made = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "fathom socket");
    BIO_meth_set_read(made, bio_read);
    BIO_meth_set_write(made, bio_write);
    BIO_meth_set_ctrl(made, bio_control);
    return made;
  }();
  return method;
}

class TlsTransport final : public Transport {
 public:
  TlsTransport(int descriptor, std::shared_ptr<const TlsContext> context, SSL* ssl, BIO* bio)
      : Transport(descriptor), context_(std::move(context)), ssl_(ssl) {
    BIO_set_data(bio, reinterpret_cast<void*>(static_cast<intptr_t>(descriptor)));
    BIO_set_init(bio, 1);
    SSL_set_bio(ssl_, bio, bio);
    SSL_set_accept_state(ssl_);
  }
  ~TlsTransport() override { SSL_free(ssl_); }

  IoResult handshake() override {
    ERR_clear_error();
    const int rc = SSL_do_handshake(ssl_);
    if (rc == 1) return {IoStatus::kDone, 0};
    return fail(rc);
  }

  IoResult read(char* data, size_t size) override {
    ERR_clear_error();
    const int rc = SSL_read(ssl_, data, clamp(size));
    if (rc > 0) return {IoStatus::kDone, static_cast<size_t>(rc)};
    return fail(rc);
  }

  IoResult write(const char* data, size_t size) override {
    ERR_clear_error();
    const int rc = SSL_write(ssl_, data, clamp(size));
    if (rc > 0) return {IoStatus::kDone, static_cast<size_t>(rc)};
    return fail(rc);
  }

  void shutdown_write() override {
    if (!failed_ && SSL_is_init_finished(ssl_)) {
      ERR_clear_error();
      SSL_shutdown(ssl_);
    }
    ::shutdown(descriptor_, SHUT_WR);
  }

  bool buffers_input() const override { return true; }

  PeerIdentity peer() const override {
    PeerIdentity identity;
    const X509* certificate = SSL_get0_peer_certificate(ssl_);
    if (certificate == nullptr || SSL_get_verify_result(ssl_) != X509_V_OK) return identity;
    identity.verified = context_->requires_client_certificate();
    identity.name = identity_from_certificate(certificate);
    return identity;
  }

 private:
  static int clamp(size_t size) { return size > INT_MAX ? INT_MAX : static_cast<int>(size); }

  IoResult fail(int rc) {
    const int error = SSL_get_error(ssl_, rc);
    ERR_clear_error();
    switch (error) {
      case SSL_ERROR_WANT_READ: return {IoStatus::kWantsRead, 0};
      case SSL_ERROR_WANT_WRITE: return {IoStatus::kWantsWrite, 0};
      case SSL_ERROR_ZERO_RETURN: return {IoStatus::kEnd, 0};
      default: failed_ = true; return {IoStatus::kFailed, 0};
    }
  }

  const std::shared_ptr<const TlsContext> context_;
  SSL* const ssl_;
  bool failed_ = false;  // after a fatal error OpenSSL forbids SSL_shutdown
};

}  // namespace

std::unique_ptr<Transport> make_tls_transport(int descriptor,
                                              std::shared_ptr<const TlsContext> context) {
  SSL* ssl = SSL_new(context->native());
  if (ssl == nullptr) return nullptr;
  BIO* bio = BIO_new(socket_bio_method());
  if (bio == nullptr) {
    SSL_free(ssl);
    return nullptr;
  }
  return std::make_unique<TlsTransport>(descriptor, std::move(context), ssl, bio);
}

}  // namespace fathom::net
