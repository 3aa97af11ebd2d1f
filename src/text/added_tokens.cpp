// A byte trie over the contents, walked from every byte that can begin one.
#include "text/added_tokens.h"

#include <algorithm>

#include "text/unicode_class.h"
#include "text/utf8.h"

namespace fathom::text {
namespace {

std::uint8_t bits_at(std::string_view text, std::size_t at, std::size_t& length) {
  return UnicodeTable::get()[decode_valid_utf8(text.data() + at, length)];
}

// Start of the character that ends at `end` (> 0).
std::size_t character_before(std::string_view text, std::size_t end) {
  --end;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  return end;
}

bool word_before(std::string_view text, std::size_t at) {
  std::size_t length = 0;
  return at > 0 && (bits_at(text, character_before(text, at), length) & kWord);
}

bool word_after(std::string_view text, std::size_t at) {
  std::size_t length = 0;
  return at < text.size() && (bits_at(text, at, length) & kWord);
}

std::size_t strip_left(std::string_view text, std::size_t begin, std::size_t floor) {
  while (begin > floor) {
    std::size_t length = 0;
    const std::size_t before = character_before(text, begin);
    if (!(bits_at(text, before, length) & kSpace)) break;
    begin = before;
  }
  return std::max(begin, floor);
}

std::size_t strip_right(std::string_view text, std::size_t end) {
  while (end < text.size()) {
    std::size_t length = 0;
    if (!(bits_at(text, end, length) & kSpace)) break;
    end += length;
  }
  return end;
}

}  // namespace

bool is_control_token(const AddedToken& token) {
  if (token.special) return true;
  for (std::size_t i = 0, length = 0; i < token.content.size(); i += length) {
    if (!(bits_at(token.content, i, length) & (kLetter | kMark | kNumber | kSpace))) return true;
  }
  return false;
}

AddedTokenSet::AddedTokenSet(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  std::erase_if(tokens_, [](const AddedToken& t) { return t.content.empty(); });
  const auto less = [](const AddedToken& a, const AddedToken& b) { return a.content < b.content; };
  std::stable_sort(tokens_.begin(), tokens_.end(), less);
  for (const AddedToken& token : tokens_) {
    control_.push_back(is_control_token(token));
    starts_[static_cast<unsigned char>(token.content[0])] = true;
  }
  nodes_.emplace_back();
  build_node(0, 0, tokens_.size(), 0);
}

// Fills `node`, whose path is the first `depth` bytes that tokens_[first, last) share.
void AddedTokenSet::build_node(std::uint32_t node, std::size_t first, std::size_t last,
                               std::size_t depth) {
  while (first < last && tokens_[first].content.size() == depth) {
    nodes_[node].token = static_cast<std::uint32_t>(first++);
  }
  struct Group {
    std::size_t first, last;
  };
  std::vector<Group> groups;
  for (std::size_t i = first; i < last;) {
    std::size_t j = i + 1;
    while (j < last && tokens_[j].content[depth] == tokens_[i].content[depth]) ++j;
    groups.push_back({i, j});
    i = j;
  }
  nodes_[node].first_edge = static_cast<std::uint32_t>(edges_.size());
  nodes_[node].edge_count = static_cast<std::uint32_t>(groups.size());
  for (const Group& group : groups) {
    edges_.push_back({static_cast<unsigned char>(tokens_[group.first].content[depth]),
                      static_cast<std::uint32_t>(nodes_.size())});
    nodes_.emplace_back();
  }
  const std::uint32_t first_edge = nodes_[node].first_edge;
  for (std::size_t g = 0; g < groups.size(); ++g) {
    build_node(edges_[first_edge + g].node, groups[g].first, groups[g].last, depth + 1);
  }
}

std::optional<std::uint32_t> AddedTokenSet::child(std::uint32_t node, unsigned char byte) const {
  const Edge* first = edges_.data() + nodes_[node].first_edge;
  const Edge* last = first + nodes_[node].edge_count;
  const Edge* edge = std::lower_bound(first, last, byte,
                                      [](const Edge& e, unsigned char b) { return e.byte < b; });
  if (edge == last || edge->byte != byte) return std::nullopt;
  return edge->node;
}

std::optional<std::uint32_t> AddedTokenSet::longest_at(std::string_view text, std::size_t at,
                                                       const TrustedRanges& trusted) const {
  std::optional<std::uint32_t> best;
  std::uint32_t node = 0;
  for (std::size_t i = at; i < text.size(); ++i) {
    const std::optional<std::uint32_t> next = child(node, static_cast<unsigned char>(text[i]));
    if (!next) break;
    node = *next;
    const std::optional<std::uint32_t> token = nodes_[node].token;
    if (token && (!control_[*token] || trusted.covers(at, i + 1))) best = token;
  }
  return best;
}

std::vector<AddedTokenSet::Match> AddedTokenSet::find_all(std::string_view text,
                                                          const TrustedRanges& trusted) const {
  std::vector<Match> matches;
  if (tokens_.empty()) return matches;
  std::size_t taken = 0;  // end of the last match
  for (std::size_t at = 0; at < text.size();) {
    if (!starts_[static_cast<unsigned char>(text[at])]) {
      ++at;
      continue;
    }
    const std::optional<std::uint32_t> index = longest_at(text, at, trusted);
    if (!index) {
      ++at;
      continue;
    }
    const AddedToken& token = tokens_[*index];
    std::size_t begin = at, end = at + token.content.size();
    at = end;
    if (token.single_word && (word_before(text, begin) || word_after(text, end))) continue;
    if (token.lstrip) begin = strip_left(text, begin, taken);
    if (token.rstrip) end = strip_right(text, end);
    matches.push_back({token.id, std::max(begin, taken), end});
    taken = end;
    at = end;
  }
  return matches;
}

}  // namespace fathom::text
