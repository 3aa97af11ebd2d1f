// Server-sent events as the HTML standard defines them, from pieces of any size. Used by one
// thread.
#pragma once

#include <functional>
#include <string>
#include <string_view>

namespace fathom::ctl {

// Lines end with CR, LF or CRLF; an event ends with an empty line; `data:` lines of one event are
// joined with LF; comments and other fields are skipped; a byte order mark at the start too. An
// event that the stream's end cuts off is dropped, as the standard says.
class SseParser {
 public:
  // `on_event` gets the data of each event that has any; false stops the parser.
  explicit SseParser(std::function<bool(std::string_view data)> on_event)
      : on_event_(std::move(on_event)) {}

  // False once on_event has said so.
  bool push(std::string_view bytes);
  // Comment lines so far: keep-alives.
  int comments() const { return comments_; }

 private:
  bool end_line();

  std::function<bool(std::string_view)> on_event_;
  std::string line_;
  std::string data_;
  bool has_data_ = false;
  bool after_cr_ = false;
  bool first_line_ = true;
  bool stopped_ = false;
  int comments_ = 0;
};

}  // namespace fathom::ctl
