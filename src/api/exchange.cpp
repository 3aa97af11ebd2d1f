// Answers and their log line.
#include "api/exchange.h"

#include <algorithm>

#include "api/api_error.h"
#include "api/api_server.h"
#include "api/response_json.h"
#include "base/log.h"
#include "net/sse.h"

namespace fathom::api {

std::string request_id_of(const net::HttpRequest& request) {
  const std::string_view given = request.headers.find("x-request-id");
  const bool sane =
      !given.empty() && given.size() <= 128 &&
      std::all_of(given.begin(), given.end(), [](char c) { return c > ' ' && c < 0x7F; });
  return sane ? std::string(given) : make_id("req-");
}

void count_http(const ApiContext& context, std::string_view route, int status) {
  context.metrics->counter(CounterId::kHttpRequests, {route, std::to_string(status)}).add();
}

HttpExchange::HttpExchange(const RouteCall& call)
    : context_(call.server->context()),
      response_(call.response),
      identity_(call.identity),
      route_(call.route->path),
      method_(call.request.method),
      path_(call.request.path),
      remote_(call.request.remote_address),
      request_id_(request_id_of(call.request)),
      started_us_(context_.clock->now_us()),
      last_write_us_(started_us_) {}

net::HeaderList HttpExchange::headers(std::string_view content_type) const {
  net::HeaderList list;
  list.add("content-type", std::string(content_type));
  list.add("x-request-id", request_id_);
  list.add("openai-processing-ms", std::to_string((context_.clock->now_us() - started_us_) / 1000));
  list.add("openai-version", "2020-10-01");
  return list;
}

void HttpExchange::send_json(int status, std::string_view body) {
  response_->send(status, headers(kJsonContentType), body);
}

void HttpExchange::send_error(const Status& status) {
  const ApiError error = to_api_error(status);
  net::HeaderList list = headers(kJsonContentType);
  if (error.retry_after_s) list.add("retry-after", std::to_string(*error.retry_after_s));
  if (error.http_status == 500) list.add("x-should-retry", "false");
  response_->send(error.http_status, list, error_body(error));
  log(error.http_status, nullptr);
}

void HttpExchange::begin_events() {
  if (streaming_) return;
  streaming_ = true;
  net::HeaderList list = headers(net::kSseContentType);
  list.add("cache-control", "no-cache");
  list.add("x-accel-buffering", "no");
  response_->start_stream(200, list);
}

void HttpExchange::fail_events(const Status& status) {
  const ApiError error = to_api_error(status);
  std::string last;
  net::append_sse_event(last, error_body(error));
  last += net::kSseDone;
  finish_events(last);
  log(error.http_status, nullptr);
}

void HttpExchange::write(std::string_view bytes) {
  last_write_us_ = context_.clock->now_us();
  response_->write(bytes);
}

void HttpExchange::finish_events(std::string_view last) {
  response_->write(last);
  response_->finish();
}

void HttpExchange::keep_alive(int64_t now_us) {
  if (now_us - last_write_us_ < context_.limits.keepalive_comment_ms * 1000) return;
  begin_events();
  write(net::kSseKeepAlive);
}

void HttpExchange::log(int status, const Usage* usage) {
  count_http(context_, route_, status);
  if (!context_.access_log) return;
  static const Logger kAccess("access");
  const int64_t ms = (context_.clock->now_us() - started_us_) / 1000;
  const Logger line = kAccess.with_request(request_id_);
  const std::string who = identity_.name.empty() ? identity_.certificate : identity_.name;
  line.info("request",
            {{"method", method_},
             {"path", path_},
             {"status", status},
             {"identity", who.empty() ? std::string("-") : who},
             {"certificate", identity_.certificate},
             {"remote", remote_},
             {"prompt_tokens", usage != nullptr ? usage->prompt_tokens : int64_t{0}},
             {"completion_tokens", usage != nullptr ? usage->completion_tokens : int64_t{0}},
             {"ms", ms}});
}

void HttpExchange::log_gone(const Usage& usage) {
  log(to_api_error(Status(Code::kCancelled, "the client left")).http_status, &usage);
}

}  // namespace fathom::api
