// Writing, timeouts and the end of a connection; see connection.h.
#include <algorithm>
#include <utility>

#include "net/connection.h"
#include "net/io_thread.h"
#include "net/socket_calls.h"

namespace fathom::net {

namespace {

// A buffer that a large response has left behind is not kept for the next one.
constexpr size_t kKeptBufferBytes = 64 * 1024;
// How long a closing connection reads on, so that a reset does not overtake the answer (RFC
// 9112 9.6).
constexpr int64_t kLingerMs = 2'000;
// A body's minimum rate is not asked for in its first seconds.
constexpr int64_t kBodyGraceMs = 5'000;

}  // namespace

void Connection::schedule_flush() { io_.schedule(shared_from_this()); }

bool Connection::closing() const {
  return listener_.server->draining.load(std::memory_order_relaxed);
}

void Connection::flush_queued() {
  if (state_ == State::kClosed) return;
  if (!write_armed_) return flush();
  // The socket is full; what is queued waits for it, but a cut does not.
  if (response_ && response_->must_cut()) flush();
}

void Connection::flush() {
  for (;;) {
    if (response_ && response_->must_cut()) return cut();
    if (!write_out()) return;
    if (!response_) return;
    if (response_ended_) return end_response();
    const Response::Taken taken = response_->take(out_);
    response_ended_ = taken.ended;
    keep_alive_ = taken.keep_alive;
    if (out_.empty() && !response_ended_) return;
    progress_ms_ = io_.now_ms();
  }
}

// True when out_ is empty: all of it is in the socket.
bool Connection::write_out() {
  ServerCounters& counters = listener_.server->counters;
  while (out_start_ < out_.size()) {
    const IoResult result = transport_->write(out_.data() + out_start_, out_.size() - out_start_);
    switch (result.status) {
      case IoStatus::kDone: {
        count(counters.socket_writes);
        count(counters.bytes_sent, result.bytes);
        out_start_ += result.bytes;
        progress_ms_ = io_.now_ms();
        const size_t interim = std::min(interim_bytes_, result.bytes);
        interim_bytes_ -= interim;
        if (response_) response_->sent(result.bytes - interim);
        break;
      }
      case IoStatus::kWantsWrite: arm_write(); return false;
      case IoStatus::kWantsRead: write_wants_read_ = true; return false;
      case IoStatus::kEnd:
      case IoStatus::kFailed: close(CloseReason::kClientGone); return false;
    }
  }
  out_.clear();
  out_start_ = 0;
  return true;
}

void Connection::end_response() {
  const auto self = shared_from_this();
  response_->complete();
  response_.reset();
  parser_.reset();
  if (out_.capacity() > kKeptBufferBytes) std::string().swap(out_);
  if (!keep_alive_ || client_ended_) return finish_connection();
  enter(State::kHead);
  if (!unread().empty()) request_began_ = std::chrono::steady_clock::now();
  advance();
  if (state_ == State::kClosed) return;
  if (closing() && idle()) return finish_connection();
  if (read_paused_) pump_read();
}

// The last byte is in the socket: ends our side, and reads on for a while if the client may still
// be sending.
void Connection::finish_connection() {
  transport_->shutdown_write();
  if (client_ended_ || (!discard_input_ && unread().empty()))
    return close(CloseReason::kClientGone);
  enter(State::kLinger);
  in_.clear();
  in_start_ = 0;
  pump_read();
}

// The response was aborted by its handler or outgrew its buffer.
void Connection::cut() {
  reset_on_close(watch_.descriptor());
  close(response_->overflowed() ? CloseReason::kSlowClient : CloseReason::kClientGone);
}

void Connection::close(CloseReason reason) {
  if (state_ == State::kClosed) return;
  const auto self = shared_from_this();
  state_ = State::kClosed;
  release_body();
  if (auto response = std::exchange(response_, nullptr)) {
    ServerCounters& counters = listener_.server->counters;
    if (reason == CloseReason::kSlowClient) count(counters.slow_clients);
    const bool aborted = response->must_cut() && !response->overflowed();
    const bool early = response->close(reason);
    if (early && !aborted && reason == CloseReason::kClientGone) count(counters.clients_gone);
    if (early && reason == CloseReason::kServerStopped) reset_on_close(watch_.descriptor());
  }
  watch_.close();
  io_.remove(*this);
}

void Connection::on_drain() {
  if (state_ == State::kHandshake) return close(CloseReason::kServerStopped);
  if (idle()) pump_read();  // a request may have arrived just now
  if (idle()) finish_connection();
}

void Connection::on_tick(int64_t now_ms) {
  const HttpLimits& limits = listener_.config.limits;
  const int64_t in_state_ms = now_ms - entered_ms_;
  switch (state_) {
    case State::kHandshake:
      if (in_state_ms <= limits.tls_handshake_timeout_ms) return;
      count(listener_.server->counters.handshakes_failed);
      return close(CloseReason::kClientGone);
    case State::kHead:
      if (idle()) {
        if (closing() || now_ms - progress_ms_ > limits.idle_timeout_ms) finish_connection();
      } else if (in_state_ms > limits.header_timeout_ms) {
        refuse({408, "request_timeout", "The head of the request did not arrive in time."});
      }
      return;
    case State::kBody: return tick_body(now_ms);
    case State::kRespond:
      if (out_start_ < out_.size() && now_ms - progress_ms_ > limits.write_stall_ms) {
        reset_on_close(watch_.descriptor());
        return close(CloseReason::kSlowClient);
      }
      if (read_paused_ && !client_ended_ && peer_has_left(watch_.descriptor())) handle_end(false);
      return;
    case State::kLinger:
      if (in_state_ms > kLingerMs) close(CloseReason::kClientGone);
      return;
    case State::kClosed: return;
  }
}

void Connection::tick_body(int64_t now_ms) {
  const HttpLimits& limits = listener_.config.limits;
  const int64_t beyond_grace_ms = now_ms - entered_ms_ - kBodyGraceMs;
  const bool crawls = beyond_grace_ms > 0 &&
                      body_bytes_ * 1000 <
                          static_cast<uint64_t>(beyond_grace_ms) * limits.body_rate_bytes_per_s_min;
  if (crawls || now_ms - progress_ms_ > limits.idle_timeout_ms) {
    refuse({408, "request_timeout", "The body of the request did not arrive in time."});
  }
}

}  // namespace fathom::net
