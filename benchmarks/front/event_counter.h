// EventCounter: reads the bytes of one streamed answer (HTTP/1.1 head, chunks, server-sent events)
// as they come, and counts its events. It keeps no text. One thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace fathom::bench {

class EventCounter {
 public:
  // `first_events`: so many events open the answer and carry no token (chat: one).
  explicit EventCounter(int32_t first_events) : events_left_out_(first_events) {}

  // Takes all of `bytes`; the number of tokens in it.
  int32_t feed(std::string_view bytes);

  bool complete() const { return state_ == State::kComplete; }
  // Why the answer is no good; empty while it is. Says what is missing once it is complete.
  std::string fault(int32_t tokens_expected) const;

 private:
  enum class State { kHead, kSize, kData, kDataEnd, kTrailer, kComplete, kFailed };

  size_t take_head(std::string_view bytes);
  size_t take_size(std::string_view bytes);
  size_t take_data(std::string_view bytes);
  size_t take_line_end(std::string_view bytes, State next);
  void on_event(std::string_view event);
  void fail(std::string why);

  State state_ = State::kHead;
  std::string held_;  // an unfinished head, size line or event
  size_t chunk_left_ = 0;
  int32_t line_end_seen_ = 0;
  int32_t events_left_out_;
  int32_t tokens_ = 0;
  bool length_seen_ = false;
  bool done_seen_ = false;
  std::string failure_;
};

}  // namespace fathom::bench
