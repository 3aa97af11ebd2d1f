// No parsing but for the number of tokens, no state but what is left to send.
#include "floor_server.h"

#include <netinet/tcp.h>
#include <sys/socket.h>

#include <array>
#include <charconv>
#include <string_view>

#include "net/socket_calls.h"

namespace fathom::bench {
namespace {

constexpr std::string_view kHead =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

std::string chunk(std::string_view data) {
  std::array<char, 16> size;
  const auto end = std::to_chars(size.data(), size.data() + size.size(), data.size(), 16).ptr;
  return std::string(size.data(), end) + "\r\n" + std::string(data) + "\r\n";
}

std::string event(std::string_view finish) {
  return R"(data: {"id":"cmpl-000000000000000000000000","object":"text_completion",)"
         R"("created":1700000000,"model":"demo-model","system_fingerprint":"fathom-bench",)"
         R"("choices":[{"index":0,"text":" word","logprobs":null,"finish_reason":)" +
         std::string(finish) + "}]}\n\n";
}

void send_all(int socket, std::string_view bytes) {
  (void)::send(socket, bytes.data(), bytes.size(), MSG_NOSIGNAL);
}

}  // namespace

FloorServer::FloorServer(TokenGate& gate, UniqueFd listener, uint16_t port)
    : gate_(gate),
      listener_(std::move(listener)),
      port_(port),
      event_(chunk(event("null"))),
      last_events_(chunk(event("\"length\"")) + chunk("data: [DONE]\n\n") + "0\r\n\r\n") {
  thread_ = start_thread("floor", [this](std::stop_token stop) { run(stop); });
}

FloorServer::~FloorServer() = default;

Result<std::unique_ptr<FloorServer>> FloorServer::start(TokenGate& gate) {
  FATHOM_ASSIGN(const net::BoundSocket bound, net::listen_on("127.0.0.1", 0));
  return std::unique_ptr<FloorServer>(
      new FloorServer(gate, UniqueFd(bound.descriptor), bound.port));
}

void FloorServer::accept_all() {
  for (;;) {
    auto accepted = net::accept_from(listener_.get());
    auto* got = std::get_if<net::Accepted>(&accepted);
    if (got == nullptr) return;
    net::tune_connection(got->descriptor, 0);
    streams_.push_back({UniqueFd(got->descriptor), 0});
  }
}

// A request is small and comes whole.
void FloorServer::read_request(Stream& stream) {
  std::array<char, 2048> bytes;
  const ssize_t n = ::recv(stream.socket.get(), bytes.data(), bytes.size(), MSG_DONTWAIT);
  if (n == 0) stream.socket.reset();
  if (n <= 0) return;
  const std::string_view text(bytes.data(), static_cast<size_t>(n));
  constexpr std::string_view kKey = "\"max_tokens\":";
  const size_t at = text.find(kKey);
  if (at == text.npos) return;
  std::from_chars(text.data() + at + kKey.size(), text.data() + text.size(), stream.tokens_left);
  send_all(stream.socket.get(), kHead);
}

// One event to every stream that waits for some; how many were sent.
uint64_t FloorServer::send_round() {
  uint64_t sent = 0;
  for (Stream& stream : streams_) {
    if (!stream.socket) continue;
    if (stream.tokens_left == 0) read_request(stream);
    if (stream.tokens_left == 0) continue;
    ++sent;
    send_all(stream.socket.get(), event_);
    if (--stream.tokens_left == 0) send_all(stream.socket.get(), last_events_);
  }
  return sent;
}

void FloorServer::run(const std::stop_token& stop) {
  constexpr int64_t kIdleUs = 1'000;
  constexpr int64_t kLookUs = 100'000;  // at the stop token
  uint64_t sent = gate_.tokens();
  while (!stop.stop_requested()) {
    accept_all();
    const uint64_t round = send_round();
    sent += round;
    if (round == 0) (void)gate_.wake().wait(kIdleUs);
    while (!gate_.reached(sent) && !stop.stop_requested()) (void)gate_.wake().wait(kLookUs);
  }
}

}  // namespace fathom::bench
