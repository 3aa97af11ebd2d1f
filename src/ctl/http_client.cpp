// One request at a time over a kept-alive connection.
#include "ctl/http_client.h"

#include <array>

#include "base/json.h"

namespace fathom::ctl {
namespace {

constexpr size_t kFetchBytesMax = size_t{64} << 20;
constexpr size_t kReadBytes = 16 * 1024;

Code code_of(int http_status) {
  switch (http_status) {
    case 400: return Code::kInvalidArgument;
    case 401: return Code::kUnauthenticated;
    case 403: return Code::kPermissionDenied;
    case 404: return Code::kNotFound;
    case 408: return Code::kDeadlineExceeded;
    case 429: return Code::kResourceExhausted;
    case 502:
    case 503:
    case 504: return Code::kUnavailable;
    default: return http_status < 500 ? Code::kFailedPrecondition : Code::kInternal;
  }
}

std::string text_member(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : "";
}

}  // namespace

Status status_of(const HttpHead& head, std::string_view body) {
  if (head.status >= 200 && head.status < 300) return Status::ok();
  std::string message = "the server answered " + std::to_string(head.status);
  std::string reason;
  const Result<Json> parsed = parse_json(body);
  if (parsed.is_ok() && parsed->is_object()) {
    const auto error = parsed->find("error");
    if (error != parsed->end() && error->is_object()) {
      message += ": " + text_member(*error, "message");
      reason = text_member(*error, "code");
    } else if (const std::string status = text_member(*parsed, "status"); !status.empty()) {
      message += ": " + status;
      reason = status;
    }
  }
  return Status(code_of(head.status), message).because(reason);
}

std::string HttpClient::render(const HttpCall& call) const {
  std::string text = call.method + " " + config_.url.prefix + call.path + " HTTP/1.1\r\n";
  text += "Host: " + config_.url.authority() + "\r\nUser-Agent: fathomctl\r\nAccept: */*\r\n";
  if (!config_.api_key.empty()) text += "Authorization: Bearer " + config_.api_key + "\r\n";
  if (!call.body.empty()) text += "Content-Type: application/json\r\n";
  if (!call.body.empty() || call.method != "GET") {
    text += "Content-Length: " + std::to_string(call.body.size()) + "\r\n";
  }
  return text + "\r\n" + call.body;
}

Result<HttpHead> HttpClient::attempt(
    const std::string& request,
    const std::function<bool(const HttpHead&, std::string_view)>& on_body, bool& stale) {
  const bool reused = connection_ != nullptr;
  if (!reused) {
    FATHOM_ASSIGN(connection_, connect_to(config_.url, config_.tls.get(), config_.bounds));
  }
  // Whatever goes wrong from here on, this connection is not used again.
  std::unique_ptr<Transport> connection = std::move(connection_);
  const Status written = connection->write(request);
  // A server may answer and close before it has read everything: look for that answer first.
  if (!written.is_ok() && written.code() != Code::kUnavailable) return written;
  const HttpHead* head = nullptr;
  ResponseReader reader([&](std::string_view piece) { return on_body(*head, piece); });
  head = &reader.head();
  std::array<char, kReadBytes> buffer;
  bool any = false;
  while (!reader.done() && !reader.stopped()) {
    const Result<size_t> n = connection->read(buffer);
    if (!n.is_ok() || *n == 0) {
      stale = reused && !any && (n.is_ok() || n.status().code() == Code::kUnavailable);
      if (!any && !written.is_ok()) return written;
      if (!n.is_ok()) return n.status();
      FATHOM_RETURN_IF_ERROR(reader.end_of_stream());
      if (!any) return unavailable("the server closed the connection without an answer");
      return reader.head();
    }
    any = true;
    FATHOM_RETURN_IF_ERROR(reader.feed(std::span(buffer.data(), *n)));
  }
  if (reader.done() && reader.keep_alive() && written.is_ok()) {
    connection_ = std::move(connection);
  }
  return reader.head();
}

Result<HttpHead> HttpClient::stream(
    const HttpCall& call, const std::function<bool(const HttpHead&, std::string_view)>& on_body) {
  const std::string request = render(call);
  bool stale = false;
  Result<HttpHead> head = attempt(request, on_body, stale);
  if (!stale) return head;
  return attempt(request, on_body, stale);
}

Result<HttpResponse> HttpClient::fetch(const HttpCall& call) {
  HttpResponse response;
  FATHOM_ASSIGN(response.head, stream(call, [&](const HttpHead&, std::string_view piece) {
                  response.body.append(piece);
                  return response.body.size() <= kFetchBytesMax;
                }));
  if (response.body.size() > kFetchBytesMax) {
    return Status(Code::kOutOfRange, "the response is larger than 64 MiB");
  }
  return response;
}

}  // namespace fathom::ctl
