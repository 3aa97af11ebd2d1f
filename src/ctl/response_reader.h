// Parses one HTTP/1.1 response as its bytes arrive (Beast's parser, used synchronously). Used by
// one thread.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "fathom/status.h"

namespace fathom::ctl {

struct HttpHead {
  int status = 0;
  std::vector<std::pair<std::string, std::string>> headers;

  // The first field of this name (any case), or "".
  std::string_view find(std::string_view name) const;
};

// Takes a piece of the body; false stops the response.
using BodySink = std::function<bool(std::string_view)>;

class ResponseReader {
 public:
  explicit ResponseReader(BodySink sink);
  ~ResponseReader();

  // Bytes as they came from the connection. Bytes behind the response's end are an error: nothing
  // was asked for. kDataLoss when it is not HTTP.
  Status feed(std::span<const char> bytes);
  // The connection ended. kDataLoss when the response did not.
  Status end_of_stream();

  bool done() const;
  bool stopped() const { return stopped_; }
  bool head_done() const;
  bool keep_alive() const;
  const HttpHead& head() const { return head_; }

 private:
  struct Parser;
  void take_head();
  bool deliver();

  std::unique_ptr<Parser> parser_;
  BodySink sink_;
  HttpHead head_;
  std::string unread_;  // bytes that the parser wants together with the next ones
  bool stopped_ = false;
};

}  // namespace fathom::ctl
