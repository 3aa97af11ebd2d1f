// Finds stop strings in the text of one answer, across the borders of its deltas. Owner: the stream
// of one choice; one thread at a time.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "fathom/status.h"

namespace fathom::text {

// Emits text as soon as it cannot belong to a stop string any more: only the longest end of the
// text that begins a stop string is held back. Time linear in the text, for each stop string.
class StopMatcher {
 public:
  static constexpr std::size_t kMaxStops = 16;
  static constexpr std::size_t kMaxStopBytes = 4096;

  struct Output {
    std::string text;
    bool stopped = false;
    std::size_t stop_index = 0;  // which stop string, when stopped
  };

  // With `include_stop` the answer ends with the stop string, else before it.
  // INVALID_ARGUMENT: more than kMaxStops strings, an empty one, or one over kMaxStopBytes.
  static Result<StopMatcher> create(std::vector<std::string> stops, bool include_stop);

  // The text that is safe to emit. Of stop strings that end at the same byte the longest counts.
  // After `stopped` has been returned once, further text is dropped.
  Output push(std::string_view delta);

  // The held text, when the answer ends without a stop string.
  std::string finish();

  bool stopped() const { return stopped_; }

 private:
  struct Stop {
    std::string text;
    std::vector<std::uint32_t>
        fallback;               // [text.size()] length of the longest proper border of each prefix
    std::uint32_t matched = 0;  // bytes of `text` that the answer ends with
  };

  StopMatcher(std::vector<Stop> stops, bool include_stop)
      : stops_(std::move(stops)), include_stop_(include_stop) {}

  static Stop make_stop(std::string text);
  static bool advance(Stop& stop, char byte);

  std::vector<Stop> stops_;
  bool include_stop_;
  bool stopped_ = false;
  std::string held_;  // not emitted yet
};

}  // namespace fathom::text
