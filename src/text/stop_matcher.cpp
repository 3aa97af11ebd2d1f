// Knuth-Morris-Pratt per stop string.
#include "text/stop_matcher.h"

#include <algorithm>
#include <optional>

namespace fathom::text {

Result<StopMatcher> StopMatcher::create(std::vector<std::string> stops, bool include_stop) {
  if (stops.size() > kMaxStops) {
    return invalid_argument("stop may hold at most " + std::to_string(kMaxStops) + " strings")
        .about("stop");
  }
  std::vector<Stop> made;
  for (std::string& stop : stops) {
    if (stop.empty()) return invalid_argument("stop holds an empty string").about("stop");
    if (stop.size() > kMaxStopBytes) {
      return invalid_argument("a stop string is over " + std::to_string(kMaxStopBytes) + " bytes")
          .about("stop");
    }
    made.push_back(make_stop(std::move(stop)));
  }
  return StopMatcher(std::move(made), include_stop);
}

StopMatcher::Stop StopMatcher::make_stop(std::string text) {
  Stop stop;
  stop.fallback.assign(text.size(), 0);
  std::uint32_t border = 0;
  for (std::size_t i = 1; i < text.size(); ++i) {
    while (border > 0 && text[i] != text[border]) border = stop.fallback[border - 1];
    if (text[i] == text[border]) ++border;
    stop.fallback[i] = border;
  }
  stop.text = std::move(text);
  return stop;
}

// Whether the answer ends with `stop` after one more byte.
bool StopMatcher::advance(Stop& stop, char byte) {
  while (stop.matched > 0 && stop.text[stop.matched] != byte) {
    stop.matched = stop.fallback[stop.matched - 1];
  }
  if (stop.text[stop.matched] == byte) ++stop.matched;
  return stop.matched == stop.text.size();
}

StopMatcher::Output StopMatcher::push(std::string_view delta) {
  Output out;
  if (stopped_) return out;
  if (stops_.empty()) {
    out.text = delta;
    return out;
  }
  const std::size_t held_before = held_.size();
  held_ += delta;
  for (std::size_t i = held_before; i < held_.size(); ++i) {
    std::optional<std::size_t> hit;
    for (std::size_t s = 0; s < stops_.size(); ++s) {
      if (!advance(stops_[s], held_[i])) continue;
      if (!hit || stops_[s].text.size() > stops_[*hit].text.size()) hit = s;
    }
    if (!hit) continue;
    stopped_ = true;
    const std::size_t begin = i + 1 - stops_[*hit].text.size();
    out = {held_.substr(0, include_stop_ ? i + 1 : begin), true, *hit};
    held_.clear();
    return out;
  }
  std::size_t hold = 0;
  for (const Stop& stop : stops_) hold = std::max<std::size_t>(hold, stop.matched);
  out.text = held_.substr(0, held_.size() - hold);
  held_.erase(0, held_.size() - hold);
  return out;
}

std::string StopMatcher::finish() { return std::exchange(held_, {}); }

}  // namespace fathom::text
