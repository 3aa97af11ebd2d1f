// Non-blocking sockets and poll: every wait has a bound and looks at the cancel flag.
#include "ctl/transport.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/file.h"

namespace fathom::ctl {
namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::milliseconds kCancelPeriod{200};

Status cancelled() { return Status(Code::kCancelled, "interrupted"); }

// Waits until `fd` is ready for `events`, `deadline` passes or the flag is set.
Status wait_ready(int fd, short events, Clock::time_point deadline,
                  const std::atomic<bool>* cancel) {
  while (true) {
    if (cancel != nullptr && *cancel) return cancelled();
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now());
    if (left.count() <= 0) return Status(Code::kDeadlineExceeded, "no answer in time");
    pollfd p{fd, events, 0};
    const int n = ::poll(&p, 1, static_cast<int>(std::min(left, kCancelPeriod).count()));
    if (n > 0) return Status::ok();
    if (n < 0 && errno != EINTR) return unavailable(std::string("poll: ") + std::strerror(errno));
  }
}

class PlainTransport final : public Transport {
 public:
  PlainTransport(UniqueFd fd, const WaitBounds& bounds) : fd_(std::move(fd)), bounds_(bounds) {}

  Result<size_t> read(std::span<char> into) override {
    while (true) {
      const ssize_t n = ::recv(fd_.get(), into.data(), into.size(), 0);
      if (n >= 0) return static_cast<size_t>(n);
      if (errno == EINTR) continue;
      if (errno != EAGAIN) return broken();
      FATHOM_RETURN_IF_ERROR(
          wait_ready(fd_.get(), POLLIN, Clock::now() + bounds_.idle, bounds_.cancel));
    }
  }
  Status write(std::string_view bytes) override {
    while (!bytes.empty()) {
      const ssize_t n = ::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n >= 0) {
        bytes.remove_prefix(static_cast<size_t>(n));
        continue;
      }
      if (errno == EINTR) continue;
      if (errno != EAGAIN) return broken();
      FATHOM_RETURN_IF_ERROR(
          wait_ready(fd_.get(), POLLOUT, Clock::now() + bounds_.idle, bounds_.cancel));
    }
    return Status::ok();
  }

 private:
  static Status broken() {
    return unavailable(std::string("the connection broke: ") + std::strerror(errno));
  }
  UniqueFd fd_;
  WaitBounds bounds_;
};

std::string openssl_error() {
  char text[256] = "unknown TLS error";
  const unsigned long error = ERR_get_error();
  if (error != 0) ERR_error_string_n(error, text, sizeof(text));
  ERR_clear_error();
  return text;
}

class TlsTransport final : public Transport {
 public:
  TlsTransport(UniqueFd fd, SSL* ssl, const WaitBounds& bounds)
      : fd_(std::move(fd)), ssl_(ssl), bounds_(bounds) {}
  ~TlsTransport() override {
    SSL_shutdown(ssl_);  // says goodbye, does not wait for the answer
    SSL_free(ssl_);
  }

  Status handshake(Clock::time_point deadline) {
    while (true) {
      ERR_clear_error();
      const int n = SSL_connect(ssl_);
      if (n == 1) return Status::ok();
      const Status ready = wait_for(n, deadline);
      if (ready.is_ok()) continue;
      const long verified = SSL_get_verify_result(ssl_);
      if (verified == X509_V_OK) return ready;
      return Status(Code::kUnavailable, std::string("the server's certificate was not accepted: ") +
                                            X509_verify_cert_error_string(verified));
    }
  }
  Result<size_t> read(std::span<char> into) override {
    while (true) {
      ERR_clear_error();
      const int size = static_cast<int>(std::min<size_t>(into.size(), 1 << 30));
      const int n = SSL_read(ssl_, into.data(), size);
      if (n > 0) return static_cast<size_t>(n);
      if (SSL_get_error(ssl_, n) == SSL_ERROR_ZERO_RETURN) return size_t{0};
      FATHOM_RETURN_IF_ERROR(wait_for(n, Clock::now() + bounds_.idle));
    }
  }
  Status write(std::string_view bytes) override {
    while (!bytes.empty()) {
      ERR_clear_error();
      const int n =
          SSL_write(ssl_, bytes.data(), static_cast<int>(std::min<size_t>(bytes.size(), 1 << 30)));
      if (n > 0) {
        bytes.remove_prefix(static_cast<size_t>(n));
        continue;
      }
      FATHOM_RETURN_IF_ERROR(wait_for(n, Clock::now() + bounds_.idle));
    }
    return Status::ok();
  }

 private:
  // After a call that returned `n` <= 0: waits for what it wants, or says why it failed.
  Status wait_for(int n, Clock::time_point deadline) {
    switch (SSL_get_error(ssl_, n)) {
      case SSL_ERROR_WANT_READ: return wait_ready(fd_.get(), POLLIN, deadline, bounds_.cancel);
      case SSL_ERROR_WANT_WRITE: return wait_ready(fd_.get(), POLLOUT, deadline, bounds_.cancel);
      case SSL_ERROR_SYSCALL:
        return unavailable("the connection broke inside TLS" +
                           (errno != 0 ? std::string(": ") + std::strerror(errno) : ""));
      default: return unavailable("TLS: " + openssl_error());
    }
  }
  UniqueFd fd_;
  SSL* ssl_;
  WaitBounds bounds_;
};

// Starts a connection to one address; waits for it.
Result<UniqueFd> connect_address(const addrinfo& address, Clock::time_point deadline,
                                 const WaitBounds& bounds) {
  UniqueFd fd(::socket(address.ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd) return unavailable(std::string("socket: ") + std::strerror(errno));
  if (::connect(fd.get(), address.ai_addr, address.ai_addrlen) != 0) {
    if (errno != EINPROGRESS) return unavailable(std::strerror(errno));
    FATHOM_RETURN_IF_ERROR(wait_ready(fd.get(), POLLOUT, deadline, bounds.cancel));
    int error = 0;
    socklen_t size = sizeof(error);
    ::getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &size);
    if (error != 0) return unavailable(std::strerror(error));
  }
  const int on = 1;
  ::setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  return fd;
}

Result<UniqueFd> connect_host(const Url& url, Clock::time_point deadline,
                              const WaitBounds& bounds) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* list = nullptr;
  const int error =
      ::getaddrinfo(url.host.c_str(), std::to_string(url.port).c_str(), &hints, &list);
  if (error != 0) {
    return unavailable("cannot resolve " + url.host + ": " + ::gai_strerror(error)).about("url");
  }
  Status last = unavailable("no address");
  for (const addrinfo* a = list; a != nullptr; a = a->ai_next) {
    Result<UniqueFd> fd = connect_address(*a, deadline, bounds);
    if (fd.is_ok()) {
      ::freeaddrinfo(list);
      return fd;
    }
    last = fd.status();
  }
  ::freeaddrinfo(list);
  if (last.code() == Code::kCancelled) return last;
  return unavailable("cannot connect to " + url.authority() + ": " + last.message()).about("url");
}

bool is_address(const std::string& host) {
  ASN1_OCTET_STRING* parsed = a2i_IPADDRESS(host.c_str());
  const bool valid = parsed != nullptr;
  ASN1_OCTET_STRING_free(parsed);
  return valid;
}

// Expects the server's certificate to be for this host.
bool expect_host(SSL* ssl, const std::string& host) {
  if (is_address(host)) {
    return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), host.c_str()) == 1;
  }
  return SSL_set1_host(ssl, host.c_str()) == 1 && SSL_set_tlsext_host_name(ssl, host.c_str()) == 1;
}

}  // namespace

Result<std::shared_ptr<const TlsClient>> TlsClient::make(const TlsFiles& files) {
  std::shared_ptr<TlsClient> client(new TlsClient);
  SSL_CTX* context = SSL_CTX_new(TLS_client_method());
  FATHOM_CHECK(context != nullptr, "OpenSSL has no TLS client");
  client->context_ = context;
  client->verifies_ = !files.insecure;
  SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
  SSL_CTX_set_verify(context, files.insecure ? SSL_VERIFY_NONE : SSL_VERIFY_PEER, nullptr);
  SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  ERR_clear_error();
  if (files.ca_file.empty()) {
    SSL_CTX_set_default_verify_paths(context);
  } else if (SSL_CTX_load_verify_locations(context, files.ca_file.c_str(), nullptr) != 1) {
    return invalid_argument("cannot load authorities from " + files.ca_file + ": " +
                            openssl_error())
        .about("tls-ca");
  }
  if (files.cert_file.empty() != files.key_file.empty()) {
    return invalid_argument("a client certificate and its key are given together")
        .about("tls-cert");
  }
  if (files.cert_file.empty()) return std::shared_ptr<const TlsClient>(std::move(client));
  if (SSL_CTX_use_certificate_chain_file(context, files.cert_file.c_str()) != 1) {
    return invalid_argument("cannot load the client certificate " + files.cert_file + ": " +
                            openssl_error())
        .about("tls-cert");
  }
  if (SSL_CTX_use_PrivateKey_file(context, files.key_file.c_str(), SSL_FILETYPE_PEM) != 1) {
    return invalid_argument("cannot load the client key " + files.key_file + ": " + openssl_error())
        .about("tls-key");
  }
  return std::shared_ptr<const TlsClient>(std::move(client));
}

TlsClient::~TlsClient() { SSL_CTX_free(context_); }

Result<std::unique_ptr<Transport>> connect_to(const Url& url, const TlsClient* tls,
                                              const WaitBounds& bounds) {
  const Clock::time_point deadline = Clock::now() + bounds.connect;
  FATHOM_ASSIGN(UniqueFd fd, connect_host(url, deadline, bounds));
  if (!url.tls) {
    return std::unique_ptr<Transport>(std::make_unique<PlainTransport>(std::move(fd), bounds));
  }
  FATHOM_CHECK(tls != nullptr, "an https url needs a TlsClient");
  SSL* ssl = SSL_new(tls->native());
  FATHOM_CHECK(ssl != nullptr, "OpenSSL has no memory for a connection");
  SSL_set_fd(ssl, fd.get());
  auto transport = std::make_unique<TlsTransport>(std::move(fd), ssl, bounds);
  if (tls->verifies() && !expect_host(ssl, url.host)) {
    return invalid_argument("'" + url.host + "' cannot be verified as a host name").about("url");
  }
  FATHOM_RETURN_IF_ERROR(transport->handshake(deadline));
  return std::unique_ptr<Transport>(std::move(transport));
}

}  // namespace fathom::ctl
