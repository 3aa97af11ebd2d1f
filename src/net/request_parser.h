// Bytes of one HTTP/1.x request to an HttpRequest, strictly: what two parsers could read
// differently is refused. Beast parses; the checks around it are ours. Owned by a Connection, used
// on its io thread; knows no socket.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "net/http_message.h"
#include "net/http_server.h"

namespace fathom::net {

// Why the transport refuses a request: the status, a stable word and a sentence.
struct Refusal {
  int status = 400;
  std::string_view code;  // a literal
  std::string message;
};

class RequestParser {
 public:
  explicit RequestParser(const HttpLimits& limits);
  ~RequestParser();
  RequestParser(const RequestParser&) = delete;
  RequestParser& operator=(const RequestParser&) = delete;

  struct Progress {
    size_t consumed = 0;             // bytes of `input` that belong to this request
    bool complete = false;           // the head, or the body, has ended
    std::optional<Refusal> refusal;  // set: the connection cannot be used further
  };

  // `input` is all that has been read since the request's first byte; it grows from call to call
  // until the head is complete. Then request() has everything but the body.
  Progress parse_head(std::string_view input);

  // After the head, unless body_expected() is false: the bytes that follow it, each once.
  Progress parse_body(std::string_view input);

  // Adds what the bytes do not say.
  void describe(uint64_t connection_id, const std::string& remote_address, const PeerIdentity& peer,
                bool tls, std::chrono::steady_clock::time_point received_at);

  const HttpRequest& request() const { return request_; }
  HttpRequest take_request();  // after the body; the parser is spent

  bool body_expected() const { return body_expected_; }
  bool keep_alive() const { return keep_alive_; }
  bool http_1_1() const { return http_1_1_; }
  bool expects_continue() const { return expects_continue_; }

 private:
  struct Impl;
  std::optional<Refusal> scan_head_bytes(std::string_view input);
  Progress parse_whole_head(std::string_view head);
  std::optional<Refusal> check_fields();
  std::optional<Refusal> check_target(std::string_view target);

  const HttpLimits& limits_;
  std::unique_ptr<Impl> impl_;
  HttpRequest request_;
  size_t scanned_ = 0;     // bytes of the head that scan_head_bytes has seen
  size_t leading_ = 0;     // bytes of the empty line before the request line, if there was one
  size_t line_start_ = 0;  // where the line that is being scanned begins
  size_t head_size_ = 0;   // 0 until the blank line was seen
  bool body_expected_ = false;
  bool keep_alive_ = false;
  bool http_1_1_ = false;
  bool expects_continue_ = false;
};

}  // namespace fathom::net
