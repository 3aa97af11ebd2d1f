// See request_parser.h. Beast's parser is fed synchronously with bytes that were read elsewhere.
#include "net/request_parser.h"

#include <algorithm>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <functional>
#include <utility>

#include "net/request_checks.h"

namespace fathom::net {

namespace http = boost::beast::http;
using boost::system::error_code;

struct RequestParser::Impl {
  explicit Impl(const HttpLimits& limits) {
    parser.header_limit(static_cast<uint32_t>(limits.header_bytes_max));
    parser.body_limit(limits.body_bytes_max);
    parser.on_chunk_header(refuse_extension);
  }

  // Chunk extensions have no use here, and parsers disagree on where they end.
  std::function<void(uint64_t, boost::beast::string_view, error_code&)> refuse_extension =
      [](uint64_t, boost::beast::string_view extension, error_code& error) {
        if (!extension.empty()) error = http::error::bad_chunk_extension;
      };
  http::request_parser<http::string_body> parser;
};

namespace {

std::string_view view(boost::beast::string_view text) { return {text.data(), text.size()}; }

Refusal malformed(std::string message) {
  return Refusal{400, "malformed_request", std::move(message)};
}

Refusal too_large(const HttpLimits& limits) {
  return Refusal{
      413, "request_too_large",
      "The request body is larger than " + std::to_string(limits.body_bytes_max) + " bytes."};
}

// A well-formed request line of another version of HTTP.
bool has_version_shape(std::string_view head) {
  const std::string_view line = head.substr(0, head.find("\r\n"));
  if (std::count(line.begin(), line.end(), ' ') != 2) return false;
  const std::string_view version = line.substr(line.rfind(' ') + 1);
  const auto digit = [](char c) { return c >= '0' && c <= '9'; };
  return version.size() == 8 && version.starts_with("HTTP/") && digit(version[5]) &&
         version[6] == '.' && digit(version[7]);
}

Refusal explain(const error_code& error, std::string_view head, const HttpLimits& limits) {
  if (error == http::error::body_limit) return too_large(limits);
  if (error == http::error::bad_version && has_version_shape(head)) {
    return Refusal{505, "http_version_not_supported",
                   "Only HTTP/1.0 and HTTP/1.1 are served here."};
  }
  return malformed("The request is not well-formed HTTP/1.1: " + error.message() + ".");
}

}  // namespace

RequestParser::RequestParser(const HttpLimits& limits)
    : limits_(limits), impl_(std::make_unique<Impl>(limits)) {}
RequestParser::~RequestParser() = default;

std::optional<Refusal> RequestParser::scan_head_bytes(std::string_view input) {
  for (; scanned_ < input.size(); ++scanned_) {
    const auto c = static_cast<unsigned char>(input[scanned_]);
    if (scanned_ - leading_ >= limits_.header_bytes_max) {
      if (line_start_ == leading_)
        return Refusal{414, "uri_too_long", "The request line is too long."};
      return Refusal{431, "headers_too_large",
                     "The request line and headers are larger than " +
                         std::to_string(limits_.header_bytes_max) + " bytes."};
    }
    const bool after_cr = scanned_ > line_start_ && input[scanned_ - 1] == '\r';
    if (after_cr != (c == '\n')) return malformed("A line of the head does not end with CR LF.");
    if (c == '\n') {
      const bool blank = scanned_ == line_start_ + 1;
      line_start_ = scanned_ + 1;
      if (!blank) continue;
      if (scanned_ != 1) {
        head_size_ = ++scanned_;
        return std::nullopt;
      }
      leading_ = line_start_;  // RFC 9112 2.2: one empty line before a request is ignored
      continue;
    }
    if (c != '\r' && c != '\t' && (c < 0x20 || c == 0x7f)) {
      return malformed("The head holds a control character.");
    }
    if (scanned_ == line_start_ && (c == ' ' || c == '\t')) {
      return malformed("A line of the head begins with white space.");
    }
  }
  return std::nullopt;
}

RequestParser::Progress RequestParser::parse_head(std::string_view input) {
  if (auto refusal = scan_head_bytes(input)) return {0, false, std::move(refusal)};
  if (head_size_ == 0) return {};
  Progress progress = parse_whole_head(input.substr(leading_, head_size_ - leading_));
  progress.consumed = head_size_;
  return progress;
}

RequestParser::Progress RequestParser::parse_whole_head(std::string_view head) {
  auto& parser = impl_->parser;
  error_code error;
  const size_t used = parser.put(boost::asio::buffer(head.data(), head.size()), error);
  const auto& message = parser.get();
  request_.method = view(message.method_string());
  http_1_1_ = message.version() == 11;
  if (error) return {used, false, explain(error, head, limits_)};
  if (used != head.size() || !parser.is_header_done()) {
    return {used, false, malformed("The head ends early.")};
  }
  for (const auto& field : message) {
    request_.headers.add(std::string(view(field.name_string())), std::string(view(field.value())));
  }
  if (auto refusal = check_fields()) return {used, false, std::move(refusal)};
  if (auto refusal = check_target(view(message.target()))) return {used, false, std::move(refusal)};
  body_expected_ = !parser.is_done();
  keep_alive_ = message.keep_alive();
  parser.eager(true);
  return {used, true, std::nullopt};
}

std::optional<Refusal> RequestParser::check_fields() {
  const HeaderList& headers = request_.headers;
  if (headers.size() > limits_.header_fields_max) {
    return Refusal{431, "headers_too_large",
                   "The request has more than " + std::to_string(limits_.header_fields_max) +
                       " header fields."};
  }
  for (const auto& [name, value] : headers) {
    if (!is_token(name) || name.find('_') != std::string::npos) {
      return malformed("A header field has a name that is not allowed.");
    }
    if (!is_safe_field_value(value))
      return malformed("The value of header " + name + " is not allowed.");
  }
  const size_t hosts = headers.count("host");
  if (hosts > 1 || (hosts == 0 && http_1_1_) || (hosts == 1 && !is_host(headers.find("host")))) {
    return malformed("The request needs exactly one valid Host header.");
  }
  const size_t lengths = headers.count("content-length");
  const size_t encodings = headers.count("transfer-encoding");
  if (lengths > 1 || (lengths == 1 && !is_decimal(headers.find("content-length")))) {
    return malformed("The request needs at most one Content-Length, a decimal number.");
  }
  if (encodings > 1 || (encodings == 1 && (lengths > 0 || !http_1_1_))) {
    return malformed("Transfer-Encoding goes alone, and with HTTP/1.1 only.");
  }
  if (encodings == 1 && !equals_ignoring_case(headers.find("transfer-encoding"), "chunked")) {
    return Refusal{501, "unsupported_transfer_encoding",
                   "The only Transfer-Encoding read here is chunked."};
  }
  if (http_1_1_ && headers.has("expect")) {
    if (headers.count("expect") > 1 ||
        !equals_ignoring_case(headers.find("expect"), "100-continue")) {
      return Refusal{417, "expectation_failed", "The only Expect understood here is 100-continue."};
    }
    expects_continue_ = true;
  }
  return std::nullopt;
}

std::optional<Refusal> RequestParser::check_target(std::string_view target) {
  if (target.size() > limits_.target_bytes_max) {
    return Refusal{414, "uri_too_long",
                   "The request target is longer than " + std::to_string(limits_.target_bytes_max) +
                       " bytes."};
  }
  if (request_.method == "CONNECT")
    return Refusal{501, "malformed_request", "CONNECT is not supported."};
  const size_t path = absolute_form_path(target);
  if (path != std::string_view::npos) {
    if (!is_host(absolute_form_host(target)))
      return malformed("The host of the request target is not valid.");
    target.remove_prefix(path);
  }
  const bool asterisk =
      target == "*" && request_.method == "OPTIONS" && path == std::string_view::npos;
  const bool rooted = target.starts_with('/') || (path != std::string_view::npos &&
                                                  (target.empty() || target.starts_with('?')));
  if (!is_visible_ascii(target) || target.find('#') != std::string_view::npos ||
      !(asterisk || rooted)) {
    return malformed("The request target is not valid.");
  }
  const size_t question = target.find('?');
  request_.path = target.substr(0, question);
  if (request_.path.empty()) request_.path = "/";
  if (question != std::string_view::npos) request_.query = target.substr(question + 1);
  return std::nullopt;
}

RequestParser::Progress RequestParser::parse_body(std::string_view input) {
  auto& parser = impl_->parser;
  Progress progress;
  if (!input.empty() && !parser.is_done()) {
    error_code error;
    progress.consumed = parser.put(boost::asio::buffer(input.data(), input.size()), error);
    if (error && error != http::error::need_more) progress.refusal = explain(error, {}, limits_);
  }
  progress.complete = !progress.refusal && parser.is_done();
  if (!progress.complete && !progress.refusal &&
      input.size() - progress.consumed > limits_.header_bytes_max) {
    progress.refusal = malformed("A chunk header or the trailer is too long.");
  }
  return progress;
}

void RequestParser::describe(uint64_t connection_id, const std::string& remote_address,
                             const PeerIdentity& peer, bool tls,
                             std::chrono::steady_clock::time_point received_at) {
  request_.connection_id = connection_id;
  request_.remote_address = remote_address;
  request_.peer = peer;
  request_.tls = tls;
  request_.received_at = received_at;
}

HttpRequest RequestParser::take_request() {
  request_.body = std::move(impl_->parser.get().body());
  return std::move(request_);
}

}  // namespace fathom::net
