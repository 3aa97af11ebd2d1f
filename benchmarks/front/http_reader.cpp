// Reading over HTTP and HTTPS: one epoll loop, one keep-alive connection a stream.
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <cerrno>
#include <vector>

#include "event_counter.h"
#include "reader.h"

namespace fathom::bench {
namespace {

struct SslFree {
  void operator()(SSL* ssl) const { SSL_free(ssl); }
  void operator()(SSL_CTX* context) const { SSL_CTX_free(context); }
};
using SslContext = std::unique_ptr<SSL_CTX, SslFree>;

SslContext make_context(const ClientFiles& files) {
  SslContext context(SSL_CTX_new(TLS_client_method()));
  SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER, nullptr);
  SSL_CTX_set_read_ahead(context.get(), 1);  // one recv() for a record's head and body
  const bool good =
      SSL_CTX_load_verify_file(context.get(), files.authority_file.c_str()) == 1 &&
      SSL_CTX_use_certificate_file(context.get(), files.certificate_file.c_str(),
                                   SSL_FILETYPE_PEM) == 1 &&
      SSL_CTX_use_PrivateKey_file(context.get(), files.key_file.c_str(), SSL_FILETYPE_PEM) == 1;
  return good ? std::move(context) : nullptr;
}

// One connection and the answer under way on it.
class Stream {
 public:
  // Connects and shakes hands, blocking.
  Status open(uint16_t port, SSL_CTX* context) {
    socket_ = UniqueFd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const int on = 1;
    ::setsockopt(socket_.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (::connect(socket_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
      return unavailable("cannot connect");
    }
    if (context == nullptr) return Status::ok();
    ssl_.reset(SSL_new(context));
    SSL_set_fd(ssl_.get(), socket_.get());
    return SSL_connect(ssl_.get()) == 1 ? Status::ok() : unavailable("the TLS handshake failed");
  }

  int descriptor() const { return socket_.get(); }

  // Requests are small: they fit the socket's buffer, and blocking is no matter.
  bool ask(bool chat, int32_t tokens, uint64_t seed) {
    expected_ = tokens;
    counter_ = EventCounter(chat ? 1 : 0);
    std::string body = chat ? R"({"messages":[{"role":"user","content":"Tell me a story."}])"
                            : R"({"prompt":"Once upon a time there was)";
    if (!chat) body += " a fox in the wood.\"";
    body += R"(,"stream":true,"ignore_eos":true,"max_tokens":)" + std::to_string(tokens);
    body += ",\"seed\":" + std::to_string(seed) + "}";
    std::string request = chat ? "POST /v1/chat/completions" : "POST /v1/completions";
    request += " HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    request += "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
    const auto size = static_cast<ssize_t>(request.size());
    if (!ssl_) return ::send(socket_.get(), request.data(), request.size(), MSG_NOSIGNAL) == size;
    ERR_clear_error();
    return SSL_write(ssl_.get(), request.data(), static_cast<int>(size)) == size;
  }

  // Takes what has come: the number of tokens, or the end of the connection.
  std::optional<int32_t> take(std::span<char> scratch) {
    int32_t tokens = 0;
    for (;;) {
      const ssize_t n = ssl_ ? read_tls(scratch)
                             : ::recv(socket_.get(), scratch.data(), scratch.size(), MSG_DONTWAIT);
      if (n < 0) return tokens;
      if (n == 0) return std::nullopt;
      tokens += counter_.feed({scratch.data(), static_cast<size_t>(n)});
      // A short read has emptied the socket; TLS may hold another record.
      if (!ssl_ && static_cast<size_t>(n) < scratch.size()) return tokens;
      if (ssl_ && SSL_has_pending(ssl_.get()) == 0) return tokens;
    }
  }

  bool complete() const { return counter_.complete(); }
  std::string fault() const { return counter_.fault(expected_); }

 private:
  ssize_t read_tls(std::span<char> scratch) {
    ERR_clear_error();
    const int n = SSL_read(ssl_.get(), scratch.data(), static_cast<int>(scratch.size()));
    if (n > 0) return n;
    return SSL_get_error(ssl_.get(), n) == SSL_ERROR_WANT_READ ? -1 : 0;
  }

  UniqueFd socket_;
  std::unique_ptr<SSL, SslFree> ssl_;
  EventCounter counter_{0};
  int32_t expected_ = 0;
};

class HttpReader {
 public:
  HttpReader(const ReadOrder& order, TokenGate& gate)
      : order_(order), gate_(gate), lengths_(order.tokens_min, order.tokens_max) {}

  ReadReport run(const ClientFiles& files, int control) {
    const Status opened = open(files);
    if (!opened.is_ok()) {
      report_.fail(opened.message());
      return report_;
    }
    watch(control, kControl);
    for (size_t i = 0; i < streams_.size(); ++i) {
      ask(i);
      watch(streams_[i].descriptor(), i);
    }
    std::vector<epoll_event> ready(streams_.size() + 1);
    while (under_way_ > 0 && !report_.failed()) {
      const int n = ::epoll_wait(epoll_.get(), ready.data(), static_cast<int>(ready.size()), -1);
      for (int i = 0; i < n; ++i) {
        if (ready[i].data.u64 == kControl) {
          stopping_ = true;
          ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, control, nullptr);
        } else {
          serve(ready[i].data.u64);
        }
      }
    }
    return report_;
  }

 private:
  static constexpr uint64_t kControl = ~uint64_t{0};

  Status open(const ClientFiles& files) {
    if (order_.wire == Wire::kHttps) {
      context_ = make_context(files);
      if (context_ == nullptr) return invalid_argument("the client's TLS files are no good");
    }
    epoll_ = UniqueFd(::epoll_create1(EPOLL_CLOEXEC));
    streams_.resize(static_cast<size_t>(order_.streams));
    for (Stream& stream : streams_) {
      FATHOM_RETURN_IF_ERROR(stream.open(order_.port, context_.get()));
      if (context_ == nullptr) continue;
      const int flags = ::fcntl(stream.descriptor(), F_GETFL);
      ::fcntl(stream.descriptor(), F_SETFL, flags | O_NONBLOCK);
    }
    return Status::ok();
  }

  void watch(int descriptor, uint64_t key) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.u64 = key;
    ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, descriptor, &event);
  }

  void ask(size_t index) {
    ++under_way_;
    if (!streams_[index].ask(order_.chat, lengths_.next(), ++asked_)) {
      report_.fail("a request could not be sent");
    }
  }

  void serve(size_t index) {
    Stream& stream = streams_[index];
    const std::optional<int32_t> tokens = stream.take(scratch_);
    if (!tokens) return report_.fail("the server has closed a connection");
    if (*tokens > 0) gate_.arrived(static_cast<uint64_t>(*tokens), 1);
    if (const std::string fault = stream.fault(); !fault.empty()) return report_.fail(fault);
    if (!stream.complete()) return;
    ++report_.answers;
    --under_way_;
    if (!stopping_) ask(index);
  }

  const ReadOrder order_;
  TokenGate& gate_;
  AnswerLengths lengths_;
  SslContext context_;
  UniqueFd epoll_;
  std::vector<Stream> streams_;
  std::array<char, 64 * 1024> scratch_;
  ReadReport report_;
  uint64_t asked_ = 0;
  int32_t under_way_ = 0;
  bool stopping_ = false;
};

}  // namespace

ReadReport read_http(const ReadOrder& order, const ClientFiles& files, TokenGate& gate,
                     int control) {
  return std::make_unique<HttpReader>(order, gate)->run(files, control);
}

}  // namespace fathom::bench
