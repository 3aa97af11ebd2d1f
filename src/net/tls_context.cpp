// Loads a listener's certificate, key and client CA into an OpenSSL context; see tls_context.h.
#include "net/tls_context.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <ctime>

namespace fathom::net {

namespace {

template <typename T, void (*release)(T*)>
struct Releaser {
  void operator()(T* object) const { release(object); }
};
using ContextPtr = std::unique_ptr<SSL_CTX, Releaser<SSL_CTX, SSL_CTX_free>>;
using KeyPtr = std::unique_ptr<EVP_PKEY, Releaser<EVP_PKEY, EVP_PKEY_free>>;
using BioPtr = std::unique_ptr<BIO, Releaser<BIO, BIO_free_all>>;

// The newest reason in OpenSSL's queue, which is emptied.
std::string openssl_reason() {
  const unsigned long code = ERR_peek_last_error();  // NOLINT(google-runtime-int): OpenSSL's type
  ERR_clear_error();
  const char* reason = ERR_reason_error_string(code);
  return reason == nullptr ? "unknown error" : reason;
}

Status file_error(std::string_view setting, const std::string& file, const std::string& what) {
  return invalid_argument(std::string(setting) + ": " + file + ": " + what)
      .about(std::string(setting));
}

// A context never asks a terminal for a passphrase.
int no_passphrase(char*, int, int, void*) { return 0; }

Result<BioPtr> open_file(std::string_view setting, const std::string& file) {
  if (file.empty()) {
    return invalid_argument(std::string(setting) + " is not set, and TLS needs it")
        .about(std::string(setting));
  }
  BioPtr bio(BIO_new_file(file.c_str(), "r"));
  if (!bio) {
    const int error = errno;
    ERR_clear_error();
    return file_error(setting, file, std::string("cannot be read: ") + std::strerror(error));
  }
  return bio;
}

Status load_chain(SSL_CTX* context, const std::string& file) {
  FATHOM_ASSIGN(BioPtr probe, open_file("tls_cert", file));
  if (SSL_CTX_use_certificate_chain_file(context, file.c_str()) != 1) {
    return file_error("tls_cert", file, "holds no usable PEM certificate: " + openssl_reason());
  }
  return Status::ok();
}

Status load_key(SSL_CTX* context, const TlsFiles& files) {
  FATHOM_ASSIGN(BioPtr bio, open_file("tls_key", files.key_file));
  KeyPtr key(PEM_read_bio_PrivateKey(bio.get(), nullptr, no_passphrase, nullptr));
  if (!key) {
    return file_error(
        "tls_key", files.key_file,
        "holds no usable PEM private key (an encrypted key is not supported): " + openssl_reason());
  }
  const X509* leaf = SSL_CTX_get0_certificate(context);
  if (X509_check_private_key(leaf, key.get()) != 1) {
    ERR_clear_error();
    return file_error("tls_key", files.key_file,
                      "is not the key of the certificate in " + files.cert_file + " (tls_cert)");
  }
  if (SSL_CTX_use_PrivateKey(context, key.get()) != 1) {
    return file_error("tls_key", files.key_file, "cannot be used: " + openssl_reason());
  }
  return Status::ok();
}

Status require_client_certificates(SSL_CTX* context, const std::string& file) {
  FATHOM_ASSIGN(BioPtr probe, open_file("tls_client_ca", file));
  STACK_OF(X509_NAME)* names = SSL_load_client_CA_file(file.c_str());
  if (names == nullptr || SSL_CTX_load_verify_file(context, file.c_str()) != 1) {
    sk_X509_NAME_pop_free(names, X509_NAME_free);
    return file_error("tls_client_ca", file,
                      "holds no usable PEM certificate: " + openssl_reason());
  }
  SSL_CTX_set_client_CA_list(context, names);
  SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
  // A resumed session would carry a certificate past its end or its revocation.
  SSL_CTX_set_num_tickets(context, 0);
  SSL_CTX_set_options(context, SSL_OP_NO_TICKET);
  return Status::ok();
}

// RFC 7301: picks http/1.1 when it is offered; a client that offers only others gets
// no_application_protocol.
int choose_protocol(SSL*, const unsigned char** out, unsigned char* out_size,
                    const unsigned char* offered, unsigned int offered_size, void*) {
  static constexpr unsigned char kHttp11[] = {8, 'h', 't', 't', 'p', '/', '1', '.', '1'};
  unsigned char* chosen = nullptr;
  if (SSL_select_next_proto(&chosen, out_size, kHttp11, sizeof kHttp11, offered, offered_size) !=
      OPENSSL_NPN_NEGOTIATED) {
    return SSL_TLSEXT_ERR_ALERT_FATAL;
  }
  *out = chosen;
  return SSL_TLSEXT_ERR_OK;
}

Result<ContextPtr> make_base_context() {
  ContextPtr context(SSL_CTX_new(TLS_server_method()));
  if (!context || SSL_CTX_set_min_proto_version(context.get(), TLS1_3_VERSION) != 1 ||
      SSL_CTX_set_max_proto_version(context.get(), TLS1_3_VERSION) != 1 ||
      SSL_CTX_set_ciphersuites(context.get(),
                               "TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256") != 1) {
    return internal_error("OpenSSL offers no TLS 1.3: " + openssl_reason());
  }
  SSL_CTX_set_mode(context.get(), SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE |
                                      SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  SSL_CTX_set_session_cache_mode(context.get(), SSL_SESS_CACHE_OFF);
  SSL_CTX_set_default_passwd_cb(context.get(), no_passphrase);
  SSL_CTX_set_alpn_select_cb(context.get(), choose_protocol, nullptr);
  return context;
}

int64_t end_of_validity(const SSL_CTX* context) {
  tm end{};
  if (ASN1_TIME_to_tm(X509_get0_notAfter(SSL_CTX_get0_certificate(context)), &end) != 1) return 0;
  return static_cast<int64_t>(::timegm(&end));
}

}  // namespace

Result<std::shared_ptr<const TlsContext>> TlsContext::load(const TlsFiles& files) {
  ERR_clear_error();
  FATHOM_ASSIGN(ContextPtr context, make_base_context());
  FATHOM_RETURN_IF_ERROR(load_chain(context.get(), files.cert_file));
  FATHOM_RETURN_IF_ERROR(load_key(context.get(), files));
  if (!files.client_ca_file.empty()) {
    FATHOM_RETURN_IF_ERROR(require_client_certificates(context.get(), files.client_ca_file));
  }
  std::shared_ptr<TlsContext> loaded(new TlsContext());
  loaded->requires_client_certificate_ = !files.client_ca_file.empty();
  loaded->not_after_unix_s_ = end_of_validity(context.get());
  loaded->context_ = context.release();
  return std::shared_ptr<const TlsContext>(std::move(loaded));
}

TlsContext::~TlsContext() { SSL_CTX_free(context_); }

}  // namespace fathom::net
