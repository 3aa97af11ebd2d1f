// HttpExchange: one HTTP request's answer as the inference sinks see it: headers, errors,
// keep-alive comments and the access log line. Owned by its sink; used on the work pool, one thread
// at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "api/generation.h"
#include "api/routes.h"
#include "auth/identity.h"
#include "net/http_message.h"
#include "net/response_writer.h"

namespace fathom::api {

class HttpExchange {
 public:
  explicit HttpExchange(const RouteCall& call);

  const std::string& request_id() const { return request_id_; }
  const auth::Identity& identity() const { return identity_; }
  net::ResponseWriter& response() { return *response_; }

  void send_json(int status, std::string_view body);
  void send_error(const Status& status);

  // Streams: the head is sent once, before the first event or comment.
  void begin_events();
  bool events_begun() const { return streaming_; }
  // Ends a stream that has begun with an error event.
  void fail_events(const Status& status);
  void write(std::string_view bytes);
  void finish_events(std::string_view last);
  // Sends a comment when nothing was written for the keep-alive interval.
  void keep_alive(int64_t now_us);

  // Counts the request, and one line: method, path, identity, status, tokens, milliseconds. Called
  // once, at the end.
  void log(int status, const Usage* usage);
  // The same for a client that left before its answer was whole.
  void log_gone(const Usage& usage);

 private:
  net::HeaderList headers(std::string_view content_type) const;

  const ApiContext& context_;
  std::shared_ptr<net::ResponseWriter> response_;
  auth::Identity identity_;
  std::string_view route_;
  std::string method_;
  std::string path_;
  std::string remote_;
  std::string request_id_;
  int64_t started_us_ = 0;
  int64_t last_write_us_ = 0;
  bool streaming_ = false;
};

// Counts one answered HTTP request; every request is counted once. `route`: a pattern of the route
// table, or kNoRoute.
void count_http(const ApiContext& context, std::string_view route, int status);
inline constexpr std::string_view kNoRoute = "other";

// The client's x-request-id when it is sane (1 to 128 visible ASCII characters), else a new one.
std::string request_id_of(const net::HttpRequest& request);

}  // namespace fathom::api
