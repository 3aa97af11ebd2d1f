// TokenRun: the few tokens that one row of a step makes, held in place: results and events of many
// rows need no memory of their own for them.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>

#include "fathom/check.h"

namespace fathom {

class TokenRun {
 public:
  static constexpr size_t kMax = 8;  // a token and the drafts that a row may carry

  TokenRun() = default;
  TokenRun(std::initializer_list<int32_t> tokens) { assign(tokens.begin(), tokens.end()); }

  template <typename Iterator>
  void assign(Iterator first, Iterator last) {
    size_ = 0;
    for (; first != last; ++first) push_back(*first);
  }
  void push_back(int32_t token) {
    FATHOM_CHECK(size_ < kMax, "a row makes more tokens than a run holds");
    tokens_[size_++] = token;
  }
  // The first `count` go, at most all.
  void drop_front(size_t count) {
    count = std::min(count, size());
    std::copy(begin() + count, end(), begin());
    size_ -= static_cast<uint32_t>(count);
  }

  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  int32_t front() const {
    FATHOM_CHECK(size_ > 0, "an empty run has no first token");
    return tokens_[0];
  }
  int32_t& operator[](size_t i) { return tokens_[i]; }
  int32_t operator[](size_t i) const { return tokens_[i]; }
  int32_t* begin() { return tokens_.data(); }
  int32_t* end() { return begin() + size_; }
  const int32_t* begin() const { return tokens_.data(); }
  const int32_t* end() const { return begin() + size_; }
  bool operator==(const TokenRun& other) const {
    return std::equal(begin(), end(), other.begin(), other.end());
  }

 private:
  uint32_t size_ = 0;
  std::array<int32_t, kMax> tokens_{};
};

}  // namespace fathom
