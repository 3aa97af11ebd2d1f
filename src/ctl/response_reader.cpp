// The only file of fathomctl that compiles Beast.
#include "ctl/response_reader.h"

#include <strings.h>

#include <array>
#include <boost/beast/http/buffer_body.hpp>
#include <boost/beast/http/parser.hpp>

namespace fathom::ctl {
namespace {

namespace http = boost::beast::http;
using boost::system::error_code;

constexpr uint32_t kHeaderBytesMax = 64 * 1024;

}  // namespace

struct ResponseReader::Parser {
  http::response_parser<http::buffer_body> http;
  std::array<char, 16 * 1024> body;

  void offer_body() {
    http.get().body().data = body.data();
    http.get().body().size = body.size();
    http.get().body().more = true;
  }
};

std::string_view HttpHead::find(std::string_view name) const {
  for (const auto& [key, value] : headers) {
    if (key.size() == name.size() && ::strncasecmp(key.data(), name.data(), name.size()) == 0) {
      return value;
    }
  }
  return {};
}

ResponseReader::ResponseReader(BodySink sink)
    : parser_(std::make_unique<Parser>()), sink_(std::move(sink)) {
  parser_->http.header_limit(kHeaderBytesMax);
  parser_->http.body_limit(boost::none);
  parser_->offer_body();
}

ResponseReader::~ResponseReader() = default;

bool ResponseReader::done() const { return parser_->http.is_done(); }
bool ResponseReader::head_done() const { return parser_->http.is_header_done(); }
bool ResponseReader::keep_alive() const { return parser_->http.keep_alive(); }

void ResponseReader::take_head() {
  if (head_.status != 0 || !head_done()) return;
  const auto& message = parser_->http.get();
  head_.status = static_cast<int>(message.result_int());
  for (const auto& field : message) {
    head_.headers.emplace_back(std::string(field.name_string()), std::string(field.value()));
  }
}

// Hands on what the parser wrote to the buffer. False: the sink wants no more.
bool ResponseReader::deliver() {
  const size_t n = parser_->body.size() - parser_->http.get().body().size;
  const std::string_view piece(parser_->body.data(), n);
  if (!piece.empty() && !sink_(piece)) stopped_ = true;
  parser_->offer_body();
  return !stopped_;
}

Status ResponseReader::feed(std::span<const char> bytes) {
  unread_.append(bytes.data(), bytes.size());
  while (!unread_.empty() && !stopped_) {
    if (done()) return data_loss("the server sent more than the response");
    error_code error;
    const size_t used =
        parser_->http.put(boost::asio::const_buffer(unread_.data(), unread_.size()), error);
    take_head();
    unread_.erase(0, used);
    if (head_done() && !deliver()) return Status::ok();
    if (error == http::error::need_more) return Status::ok();
    if (error && error != http::error::need_buffer) {
      return data_loss("the response is not HTTP/1.1: " + error.message());
    }
  }
  return Status::ok();
}

Status ResponseReader::end_of_stream() {
  if (done() || stopped_) return Status::ok();
  if (!parser_->http.got_some()) return Status::ok();  // the caller knows that nothing came
  error_code error;
  parser_->http.put_eof(error);
  if (error) return data_loss("the connection ended inside the response");
  return Status::ok();
}

}  // namespace fathom::ctl
