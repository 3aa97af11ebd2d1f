// Building the trie level by level, and the walk.
#include "text/token_trie.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace fathom::text {
namespace {

constexpr std::uint64_t kOnes = 0x0101010101010101ULL;
constexpr std::size_t kWord = sizeof(std::uint64_t);
static_assert(std::endian::native == std::endian::little, "find_label reads words");

// Where `byte` is in labels[begin, end), or `end`. Most nodes have few children: eight at once,
// without a branch for each. `labels` goes on for a word past `end`.
std::size_t find_label(const unsigned char* labels, std::size_t begin, std::size_t end,
                       unsigned char byte) {
  std::uint64_t word = 0;
  std::memcpy(&word, labels + begin, kWord);
  word ^= kOnes * byte;  // the lowest of its zero bytes has the lowest mark, and exactly
  const std::uint64_t marks = (word - kOnes) & ~word & (kOnes << 7);
  if (marks != 0) return std::min(begin + std::countr_zero(marks) / 8, end);
  if (end - begin <= kWord) return end;
  const void* found = std::memchr(labels + begin + kWord, byte, end - begin - kWord);
  return found != nullptr ? static_cast<const unsigned char*>(found) - labels : end;
}

}  // namespace

TokenTrie::TokenTrie(const std::vector<Entry>& tokens) {
  struct Range {  // the tokens of one node's subtree
    std::size_t begin, end, depth;
  };
  std::vector<Range> ranges = {{0, tokens.size(), 0}};
  labels_.push_back(0);
  for (std::size_t node = 0; node < ranges.size(); ++node) {
    auto [begin, end, depth] = ranges[node];
    nodes_.push_back({static_cast<std::uint32_t>(ranges.size()), kNoToken});
    if (begin < end && tokens[begin].first.size() == depth) {
      nodes_.back().token = tokens[begin++].second;
    }
    while (begin < end) {
      const char byte = tokens[begin].first[depth];
      const std::size_t first = begin;
      while (begin < end && tokens[begin].first[depth] == byte) ++begin;
      labels_.push_back(static_cast<unsigned char>(byte));
      if (depth == 0) roots_[labels_.back()] = static_cast<std::uint32_t>(ranges.size());
      ranges.push_back({first, begin, depth + 1});
    }
  }
  nodes_.push_back({static_cast<std::uint32_t>(ranges.size()), kNoToken});
  labels_.resize(labels_.size() + kWord);
}

TokenId TokenTrie::longest(std::string_view text) const {
  if (text.empty()) return kNoToken;
  std::size_t node = roots_[static_cast<unsigned char>(text[0])];
  if (node == 0) return kNoToken;
  TokenId best = nodes_[node].token;
  for (std::size_t i = 1; i < text.size(); ++i) {
    const std::size_t end = nodes_[node + 1].children;
    const std::size_t child =
        find_label(labels_.data(), nodes_[node].children, end, static_cast<unsigned char>(text[i]));
    if (child == end) break;
    node = child;
    if (nodes_[node].token != kNoToken) best = nodes_[node].token;
  }
  return best;
}

}  // namespace fathom::text
