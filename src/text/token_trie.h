// The longest token that a text begins with. Immutable after build; any thread.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

#include "text/token_map.h"

namespace fathom::text {

// A trie in breadth-first order: the children of a node lie side by side, sorted by their byte, and
// end where the next node's begin.
class TokenTrie {
 public:
  static constexpr TokenId kNoToken = -1;
  using Entry = std::pair<std::string_view, TokenId>;

  TokenTrie() : TokenTrie(std::vector<Entry>()) {}

  // `tokens`: distinct, not empty, sorted by their bytes; kept no longer than the call.
  explicit TokenTrie(const std::vector<Entry>& tokens);

  // kNoToken where no token fits.
  TokenId longest(std::string_view text) const;

 private:
  struct Node {
    std::uint32_t children;  // the first of them
    TokenId token;           // that ends here, or kNoToken
  };

  std::vector<Node> nodes_;            // [nodes + 1], the root first, then one that ends the last's
  std::vector<unsigned char> labels_;  // [nodes] the byte that leads to a node; padding
  std::array<std::uint32_t, 256> roots_{};  // the root's children by their byte; 0: none
};

}  // namespace fathom::text
