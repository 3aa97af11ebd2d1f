// Lines, fields and events.
#include "ctl/sse_parser.h"

#include <algorithm>

namespace fathom::ctl {

bool SseParser::push(std::string_view bytes) {
  while (!bytes.empty() && !stopped_) {
    if (after_cr_ && bytes.front() == '\n') {
      bytes.remove_prefix(1);
      after_cr_ = false;
      continue;
    }
    after_cr_ = false;
    const size_t end = bytes.find_first_of("\r\n");
    line_.append(bytes.substr(0, end));
    if (end == std::string_view::npos) return true;
    after_cr_ = bytes[end] == '\r';
    bytes.remove_prefix(end + 1);
    stopped_ = !end_line();
  }
  return !stopped_;
}

// Handles line_ and clears it. False: on_event wants no more.
bool SseParser::end_line() {
  std::string_view line = line_;
  if (first_line_ && line.starts_with("\xef\xbb\xbf")) line.remove_prefix(3);
  first_line_ = false;
  bool more = true;
  if (line.empty()) {
    if (has_data_) more = on_event_(data_);
    data_.clear();
    has_data_ = false;
  } else if (line.front() == ':') {
    ++comments_;
  } else {
    const size_t colon = std::min(line.find(':'), line.size());
    std::string_view value = line.substr(std::min(colon + 1, line.size()));
    if (value.starts_with(' ')) value.remove_prefix(1);
    if (line.substr(0, colon) == "data") {
      if (has_data_) data_.push_back('\n');
      data_.append(value);
      has_data_ = true;
    }
  }
  line_.clear();
  return more;
}

}  // namespace fathom::ctl
