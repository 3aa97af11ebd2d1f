// One accepted socket: handshake, one request after another, its response, timeouts, and the end.
// Lives on one io thread; only schedule_flush() and closing() are called from others (by the
// response's writers).
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "net/reactor.h"
#include "net/request_parser.h"
#include "net/response.h"
#include "net/server_state.h"
#include "net/transport.h"

namespace fathom::net {

class IoThread;

class Connection final : public ReadinessSink,
                         public ResponseOwner,
                         public std::enable_shared_from_this<Connection> {
 public:
  Connection(IoThread& io, ListenerState& listener, Watch watch,
             std::unique_ptr<Transport> transport, std::string remote_address);

  void start();

  void on_readable() override;
  void on_writable() override;

  void schedule_flush() override;
  bool closing() const override;

  // Sends what the response has queued, as far as the socket takes it.
  void flush_queued();
  void on_tick(int64_t now_ms);
  // Closes at once when no request is under way.
  void on_drain();
  // Ends the connection now; a response under way learns `reason`.
  void close(CloseReason reason);

  ListenerState& listener() { return listener_; }

  size_t table_index = 0;  // its place in the io thread's table

 private:
  enum class State {
    kHandshake,
    kHead,     // waiting for a request, or inside its head
    kBody,     // inside a request's body
    kRespond,  // the response is awaited or on its way; what is read meanwhile waits in in_
    kLinger,  // our side is shut down; input is discarded until the client ends or the bound passes
    kClosed,
  };

  void continue_handshake();
  void pump_read();
  void handle_input(std::string_view bytes);
  void handle_end(bool broken);
  void advance();
  bool step_head();
  bool step_body();
  void release_body();
  void answer_without_body(const HttpReply& reply);
  void refuse(const Refusal& refusal);
  void send_continue();
  void deliver();
  std::shared_ptr<Response> open_response(bool keep_alive);
  void flush();
  bool write_out();
  void end_response();
  void finish_connection();
  void cut();
  void arm_read();
  void arm_write();
  bool idle() const { return state_ == State::kHead && unread().empty(); }
  std::string_view unread() const { return std::string_view(in_).substr(in_start_); }
  void consume(size_t bytes);
  void enter(State state);
  void tick_body(int64_t now_ms);

  IoThread& io_;
  ListenerState& listener_;
  Watch watch_;
  const std::unique_ptr<Transport> transport_;
  const std::string remote_address_;
  const uint64_t id_;
  PeerIdentity peer_;

  State state_ = State::kHandshake;
  int64_t entered_ms_ = 0;   // when state_ began; for kHead: when the first byte of the head came
  int64_t progress_ms_ = 0;  // when bytes last moved in the direction that is awaited
  size_t body_bytes_ = 0;    // of the body that is being read; counted in the listener too

  std::string in_;  // bytes read and not consumed, from in_start_
  size_t in_start_ = 0;
  std::optional<RequestParser> parser_;
  std::chrono::steady_clock::time_point request_began_;

  std::shared_ptr<Response> response_;
  std::string out_;  // bytes taken from the response, from out_start_ on unsent
  size_t out_start_ = 0;
  size_t interim_bytes_ = 0;  // the part of out_ that no response accounts for ("100 Continue")
  bool response_ended_ = false;
  bool keep_alive_ = false;

  bool read_armed_ = false;
  bool write_armed_ = false;
  bool read_paused_ = false;       // enough is pipelined; the client is watched by the tick
  bool read_wants_write_ = false;  // TLS
  bool write_wants_read_ = false;  // TLS
  bool discard_input_ = false;     // the rest of the input belongs to a refused request
  bool client_ended_ = false;      // end of file came after the response was complete
};

}  // namespace fathom::net
