// A strict reader of what our own server writes.
#include "event_counter.h"

#include <charconv>

namespace fathom::bench {

void EventCounter::fail(std::string why) {
  state_ = State::kFailed;
  failure_ = std::move(why);
}

int32_t EventCounter::feed(std::string_view bytes) {
  const int32_t before = tokens_;
  while (!bytes.empty() && state_ != State::kFailed) {
    size_t used = 0;
    switch (state_) {
      case State::kHead: used = take_head(bytes); break;
      case State::kSize: used = take_size(bytes); break;
      case State::kData: used = take_data(bytes); break;
      case State::kDataEnd: used = take_line_end(bytes, State::kSize); break;
      case State::kTrailer: used = take_line_end(bytes, State::kComplete); break;
      case State::kComplete: fail("bytes after the answer's end"); break;
      case State::kFailed: break;
    }
    bytes.remove_prefix(used);
  }
  return tokens_ - before;
}

size_t EventCounter::take_head(std::string_view bytes) {
  const size_t before = held_.size();
  held_ += bytes;
  const size_t end = held_.find("\r\n\r\n");
  if (end == held_.npos) return bytes.size();
  if (!held_.starts_with("HTTP/1.1 200 ") ||
      held_.find("Transfer-Encoding: chunked\r\n") == held_.npos) {
    fail("an answer that is no stream: " + held_.substr(0, 300));
    return bytes.size();
  }
  held_.clear();
  state_ = State::kSize;
  return end + 4 - before;
}

size_t EventCounter::take_size(std::string_view bytes) {
  const size_t end = bytes.find('\n');
  if (end == bytes.npos) {
    held_ += bytes;
    return bytes.size();
  }
  std::string_view line = bytes.substr(0, end);
  if (!held_.empty()) line = held_ += line;
  const auto parsed = std::from_chars(line.data(), line.data() + line.size(), chunk_left_, 16);
  if (parsed.ec != std::errc() || parsed.ptr + 1 != line.data() + line.size()) {
    fail("a chunk without a size");
  } else {
    state_ = chunk_left_ == 0 ? State::kTrailer : State::kData;
  }
  held_.clear();
  return end + 1;
}

size_t EventCounter::take_data(std::string_view bytes) {
  const size_t size = std::min(chunk_left_, bytes.size());
  std::string_view data = bytes.substr(0, size);
  chunk_left_ -= size;
  if (chunk_left_ == 0) state_ = State::kDataEnd;
  if (!held_.empty()) data = held_ += data;
  size_t start = 0;
  for (size_t end; (end = data.find("\n\n", start)) != data.npos; start = end + 2) {
    on_event(data.substr(start, end - start));
  }
  const std::string rest(data.substr(start));
  held_ = rest;
  return size;
}

size_t EventCounter::take_line_end(std::string_view bytes, State next) {
  if (bytes[0] != "\r\n"[line_end_seen_]) {
    fail("a chunk that does not end where it should");
  } else if (++line_end_seen_ == 2) {
    line_end_seen_ = 0;
    state_ = next;
  }
  return 1;
}

void EventCounter::on_event(std::string_view event) {
  if (event.ends_with("\"finish_reason\":null}]}")) {
    if (events_left_out_ > 0) {
      --events_left_out_;
    } else {
      ++tokens_;
    }
  } else if (event.ends_with("\"finish_reason\":\"length\"}]}")) {
    length_seen_ = true;
  } else if (event == "data: [DONE]") {
    done_seen_ = true;
  } else if (!event.starts_with(':')) {
    fail("an unknown event: " + std::string(event.substr(0, 300)));
  }
}

std::string EventCounter::fault(int32_t tokens_expected) const {
  if (state_ == State::kFailed) return failure_;
  if (state_ != State::kComplete) return {};
  if (tokens_ != tokens_expected) {
    return "an answer of " + std::to_string(tokens_) + " events, not " +
           std::to_string(tokens_expected);
  }
  if (!length_seen_) return "an answer without its end";
  if (!done_seen_) return "a stream without [DONE]";
  return {};
}

}  // namespace fathom::bench
