// The state machine of one connection; see connection.h. Reading is in connection.cpp, writing and
// the end in connection_output.cpp.
#include "net/connection.h"

#include <utility>

#include "net/io_thread.h"
#include "net/socket_calls.h"

namespace fathom::net {

namespace {

// What may be pipelined behind a request whose response is not finished.
constexpr size_t kPipelinedBytesMax = 64 * 1024;
// Reads of one readiness before other connections get their turn.
constexpr int kReadsPerTurn = 8;

}  // namespace

Connection::Connection(IoThread& io, ListenerState& listener, Watch watch,
                       std::unique_ptr<Transport> transport, std::string remote_address)
    : io_(io),
      listener_(listener),
      watch_(std::move(watch)),
      transport_(std::move(transport)),
      remote_address_(std::move(remote_address)),
      id_(listener.server->next_connection_id.fetch_add(1, std::memory_order_relaxed)) {}

void Connection::start() {
  enter(State::kHandshake);
  continue_handshake();
}

void Connection::enter(State state) {
  state_ = state;
  entered_ms_ = progress_ms_ = io_.now_ms();
}

void Connection::continue_handshake() {
  const IoResult result = transport_->handshake();
  switch (result.status) {
    case IoStatus::kDone:
      peer_ = transport_->peer();
      enter(State::kHead);
      pump_read();
      return;
    case IoStatus::kWantsRead: arm_read(); return;
    case IoStatus::kWantsWrite: arm_write(); return;
    case IoStatus::kEnd:
    case IoStatus::kFailed:
      count(listener_.server->counters.handshakes_failed);
      discard_input_ = true;  // lets the alert arrive before a reset could
      finish_connection();
      return;
  }
}

void Connection::on_readable() {
  read_armed_ = false;
  if (state_ == State::kClosed) return;
  if (state_ == State::kHandshake) return continue_handshake();
  pump_read();
  if (write_wants_read_ && state_ != State::kClosed) {
    write_wants_read_ = false;
    flush();
  }
}

void Connection::on_writable() {
  write_armed_ = false;
  if (state_ == State::kClosed) return;
  if (state_ == State::kHandshake) return continue_handshake();
  flush();
  if (read_wants_write_ && state_ != State::kClosed) {
    read_wants_write_ = false;
    pump_read();
  }
}

void Connection::pump_read() {
  const auto self = shared_from_this();
  const std::span<char> scratch = io_.scratch();
  for (int turn = 0; turn < kReadsPerTurn; ++turn) {
    if (state_ == State::kClosed || client_ended_) return;
    read_paused_ = state_ == State::kRespond && unread().size() >= kPipelinedBytesMax;
    if (read_paused_) return;
    const IoResult result = state_ == State::kLinger
                                ? transport_->discard(scratch)
                                : transport_->read(scratch.data(), scratch.size());
    switch (result.status) {
      case IoStatus::kDone:
        handle_input({scratch.data(), result.bytes});
        if (!transport_->buffers_input() && result.bytes < scratch.size()) turn = kReadsPerTurn;
        break;
      case IoStatus::kWantsRead: return arm_read();
      case IoStatus::kWantsWrite: read_wants_write_ = true; return arm_write();
      case IoStatus::kEnd: return handle_end(false);
      case IoStatus::kFailed: return handle_end(true);
    }
  }
  if (state_ == State::kClosed) return;
  if (!transport_->buffers_input()) return arm_read();
  // Bytes may wait inside the transport, where no readiness tells of them.
  if (!read_armed_) {
    read_armed_ = true;
    io_.post([self] { self->on_readable(); });
  }
}

void Connection::handle_input(std::string_view bytes) {
  progress_ms_ = io_.now_ms();
  if (discard_input_ || state_ == State::kLinger) return;
  if (state_ == State::kHead && unread().empty()) {
    entered_ms_ = progress_ms_;
    request_began_ = std::chrono::steady_clock::now();
  }
  in_.append(bytes);
  advance();
}

// The client has ended its side (`broken`: the connection failed). While a response is awaited or
// streamed that means that nobody waits for it, also when only one direction was closed.
void Connection::handle_end(bool broken) {
  if (state_ == State::kRespond && !broken && response_ && response_->ended()) {
    client_ended_ = true;
    return;
  }
  if (state_ == State::kHandshake) count(listener_.server->counters.handshakes_failed);
  close(CloseReason::kClientGone);
}

void Connection::advance() {
  bool more = true;
  while (more) {
    switch (state_) {
      case State::kHead: more = step_head(); break;
      case State::kBody: more = step_body(); break;
      default: return;
    }
  }
}

bool Connection::step_head() {
  if (unread().empty()) return false;
  if (!parser_) parser_.emplace(listener_.config.limits);
  RequestParser::Progress progress = parser_->parse_head(unread());
  if (progress.refusal) {
    refuse(*progress.refusal);
    return false;
  }
  if (!progress.complete) return false;
  consume(progress.consumed);
  parser_->describe(id_, remote_address_, peer_, listener_.config.tls != nullptr, request_began_);
  if (const auto reply = listener_.config.handler->on_headers(parser_->request())) {
    answer_without_body(*reply);
    return false;
  }
  if (!parser_->body_expected()) {
    deliver();
    return false;
  }
  enter(State::kBody);
  if (parser_->expects_continue() && unread().empty()) send_continue();
  return state_ == State::kBody;
}

bool Connection::step_body() {
  if (unread().empty()) return false;
  RequestParser::Progress progress = parser_->parse_body(unread());
  if (progress.refusal) {
    refuse(*progress.refusal);
    return false;
  }
  body_bytes_ += progress.consumed;
  consume(progress.consumed);
  const size_t of_all =
      listener_.body_bytes.fetch_add(progress.consumed, std::memory_order_relaxed) +
      progress.consumed;
  if (of_all > listener_.config.limits.bodies_bytes_max) {
    refuse({503, "overloaded", "The server is reading as many request bodies as it may."});
  } else if (progress.complete) {
    deliver();
  }
  return false;
}

// The body has gone to the handler, or to nobody.
void Connection::release_body() {
  listener_.body_bytes.fetch_sub(std::exchange(body_bytes_, 0), std::memory_order_relaxed);
}

void Connection::send_continue() {
  static constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";
  out_.append(kContinue);
  interim_bytes_ += kContinue.size();
  flush();
}

// The handler has refused on the head alone. The connection goes on only if the body is here
// already.
void Connection::answer_without_body(const HttpReply& reply) {
  bool whole = !parser_->body_expected();
  if (!whole) {
    const RequestParser::Progress progress = parser_->parse_body(unread());
    whole = progress.complete;
    if (whole) consume(progress.consumed);
  }
  count(listener_.server->counters.requests);
  discard_input_ = !whole;
  open_response(whole && parser_->keep_alive())->send(reply.status, reply.headers, reply.body);
}

void Connection::refuse(const Refusal& refusal) {
  count(listener_.server->counters.malformed);
  discard_input_ = true;
  const HttpReply reply =
      listener_.config.handler->on_error(refusal.status, refusal.code, refusal.message);
  open_response(false)->send(refusal.status, reply.headers, reply.body);
  parser_.reset();  // with what it has of the body
}

std::shared_ptr<Response> Connection::open_response(bool keep_alive) {
  ResponseTraits traits;
  traits.head_only = parser_->request().method == "HEAD";
  traits.http_1_1 = parser_->http_1_1();
  traits.keep_alive = keep_alive;
  traits.buffer_bytes_max = listener_.config.limits.write_buffer_bytes_max;
  release_body();
  response_ = std::make_shared<Response>(traits, shared_from_this());
  response_ended_ = false;
  enter(State::kRespond);
  return response_;
}

void Connection::deliver() {
  count(listener_.server->counters.requests);
  const auto& handler = listener_.config.handler;
  auto response = open_response(parser_->keep_alive());
  HttpRequest request = parser_->take_request();
  // The last reference that the handler lets go of answers in its stead if it has not.
  std::shared_ptr<ResponseWriter> writer(response.get(), [response, handler](ResponseWriter*) {
    if (!response->abandon()) return;
    const HttpReply reply =
        handler->on_error(500, "internal_error", "The request ended without an answer.");
    response->send(reply.status, reply.headers, reply.body);
  });
  handler->on_request(std::move(request), std::move(writer));
}

void Connection::consume(size_t bytes) {
  in_start_ += bytes;
  if (in_start_ == in_.size()) {
    in_.clear();
    in_start_ = 0;
    if (in_.capacity() > kPipelinedBytesMax) std::string().swap(in_);
  } else if (in_start_ > kPipelinedBytesMax) {
    in_.erase(0, in_start_);
    in_start_ = 0;
  }
}

void Connection::arm_read() {
  if (read_armed_) return;
  read_armed_ = true;
  watch_.arm_read(shared_from_this());
}

void Connection::arm_write() {
  if (write_armed_) return;
  write_armed_ = true;
  watch_.arm_write(shared_from_this());
}

}  // namespace fathom::net
