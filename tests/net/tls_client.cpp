// See tls_client.h.
#include "tls_client.h"

#include <gtest/gtest.h>
#include <openssl/err.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <array>
#include <csignal>
#include <cstdlib>

namespace fathom::net {

TlsClient::TlsClient(uint16_t port, const TestCertificate& authority,
                     const TlsClientOptions& options)
    : socket_(port, options.receive_buffer_bytes), context_(SSL_CTX_new(TLS_client_method())) {
  // OpenSSL's socket BIO writes without MSG_NOSIGNAL.
  std::signal(SIGPIPE, SIG_IGN);
  const timeval five_seconds{5, 0};
  ::setsockopt(socket_.descriptor(), SOL_SOCKET, SO_RCVTIMEO, &five_seconds, sizeof five_seconds);
  SSL_CTX_set_max_proto_version(context_, options.version_max);
  EXPECT_EQ(SSL_CTX_load_verify_file(context_, authority.cert_file.c_str()), 1);
  SSL_CTX_set_verify(context_, SSL_VERIFY_PEER, nullptr);
  SSL_CTX_set_session_cache_mode(context_, SSL_SESS_CACHE_CLIENT);
  SSL_CTX_sess_set_new_cb(context_, [](SSL* ssl, SSL_SESSION*) {
    ++static_cast<TlsClient*>(SSL_get_app_data(ssl))->sessions_;
    return 0;
  });
  if (options.certificate != nullptr) {
    EXPECT_EQ(SSL_CTX_use_certificate(context_, options.certificate->certificate), 1);
    EXPECT_EQ(SSL_CTX_use_PrivateKey(context_, options.certificate->key), 1);
  }
  if (!options.alpn.empty()) {
    SSL_CTX_set_alpn_protos(context_, reinterpret_cast<const unsigned char*>(options.alpn.data()),
                            static_cast<unsigned>(options.alpn.size()));
  }
  ssl_ = SSL_new(context_);
  SSL_set_app_data(ssl_, this);
  SSL_set_fd(ssl_, socket_.descriptor());
  handshake_done_ = SSL_connect(ssl_) == 1;
  ERR_clear_error();
}

TlsClient::~TlsClient() {
  SSL_free(ssl_);
  SSL_CTX_free(context_);
}

bool TlsClient::send(std::string_view bytes) {
  ERR_clear_error();
  const bool sent = SSL_write(ssl_, bytes.data(), static_cast<int>(bytes.size())) > 0;
  ERR_clear_error();
  return sent;
}

bool TlsClient::read_more() {
  std::array<char, 16384> bytes;
  ERR_clear_error();
  const int n = SSL_read(ssl_, bytes.data(), static_cast<int>(bytes.size()));
  ERR_clear_error();
  if (n <= 0) return false;
  buffer_.append(bytes.data(), static_cast<size_t>(n));
  return true;
}

bool TlsClient::read_until(std::string_view text) {
  while (buffer_.find(text) == std::string::npos) {
    if (!read_more()) return false;
  }
  return true;
}

std::optional<std::string> TlsClient::read_body() {
  if (!read_until("\r\n\r\n")) return std::nullopt;
  const size_t start = buffer_.find("\r\n\r\n") + 4;
  static constexpr std::string_view kLength = "Content-Length: ";
  const size_t field = buffer_.find(kLength);
  if (field == std::string::npos) return std::nullopt;
  const size_t size = std::strtoul(buffer_.c_str() + field + kLength.size(), nullptr, 10);
  while (buffer_.size() < start + size) {
    if (!read_more()) return std::nullopt;
  }
  std::string body = buffer_.substr(start, size);
  buffer_.erase(0, start + size);
  return body;
}

std::string TlsClient::protocol() const {
  const unsigned char* name = nullptr;
  unsigned size = 0;
  SSL_get0_alpn_selected(ssl_, &name, &size);
  return {reinterpret_cast<const char*>(name), size};
}

std::string TlsClient::peer_serial() const {
  const X509* certificate = SSL_get0_peer_certificate(ssl_);
  return std::to_string(ASN1_INTEGER_get(X509_get0_serialNumber(certificate)));
}

void TlsClient::close_notify() { SSL_shutdown(ssl_); }

}  // namespace fathom::net
