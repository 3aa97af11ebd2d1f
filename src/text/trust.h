// Which parts of a text are template text, in which control tokens are recognised. Values; any
// thread.
#pragma once

#include <algorithm>
#include <cstddef>
#include <utility>
#include <vector>

namespace fathom::text {

// Sorted, disjoint, non-empty byte ranges; neighbours that touch are joined.
class TrustedRanges {
 public:
  TrustedRanges() = default;

  static TrustedRanges all(std::size_t size) {
    TrustedRanges ranges;
    ranges.add(0, size);
    return ranges;
  }

  // Ranges are added in ascending order.
  void add(std::size_t begin, std::size_t end) {
    if (begin >= end) return;
    if (!ranges_.empty() && ranges_.back().second == begin) {
      ranges_.back().second = end;
    } else {
      ranges_.emplace_back(begin, end);
    }
  }

  bool covers(std::size_t begin, std::size_t end) const {
    const auto after = std::upper_bound(ranges_.begin(), ranges_.end(), begin,
                                        [](std::size_t at, const auto& r) { return at < r.first; });
    return after != ranges_.begin() && std::prev(after)->second >= end;
  }

  const std::vector<std::pair<std::size_t, std::size_t>>& ranges() const { return ranges_; }

 private:
  std::vector<std::pair<std::size_t, std::size_t>> ranges_;
};

}  // namespace fathom::text
