// Finds added tokens in text: longest at the leftmost position, with lstrip, rstrip and single_word
// as Hugging Face tokenizers treat them. Immutable after build; any thread.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/token_map.h"
#include "text/trust.h"

namespace fathom::text {

struct AddedToken {
  TokenId id = 0;
  std::string content;
  bool single_word = false;
  bool lstrip = false;
  bool rstrip = false;
  bool normalized = false;
  bool special = false;
};

// True for tokens that steer the model, which untrusted text must not produce: every special one,
// and every other whose content is more than letters, marks, numbers and white space ("<｜User｜>",
// "｜DSML｜"; not the Latin letters that old DeepSeek vocabularies add).
bool is_control_token(const AddedToken& token);

// One set of added tokens that is searched for together (those with, or those without
// `normalized`).
class AddedTokenSet {
 public:
  struct Match {
    TokenId id;
    std::size_t begin,
        end;  // bytes of the text that the token takes, stripped white space included
  };

  AddedTokenSet() = default;
  // `tokens` with empty content are left out, as they match nothing.
  explicit AddedTokenSet(std::vector<AddedToken> tokens);

  bool empty() const { return tokens_.empty(); }

  // All matches in `text` (valid UTF-8), in order, not overlapping. Control tokens are found inside
  // `trusted` alone. Time linear in the text, times the longest content where every byte could
  // begin a token.
  std::vector<Match> find_all(std::string_view text, const TrustedRanges& trusted) const;

 private:
  struct Node {
    std::uint32_t first_edge = 0, edge_count = 0;  // into edges_, sorted by byte
    std::optional<std::uint32_t> token;            // index into tokens_ of a content that ends here
  };
  struct Edge {
    unsigned char byte;
    std::uint32_t node;
  };

  void build_node(std::uint32_t node, std::size_t first, std::size_t last, std::size_t depth);
  std::optional<std::uint32_t> child(std::uint32_t node, unsigned char byte) const;
  std::optional<std::uint32_t> longest_at(std::string_view text, std::size_t at,
                                          const TrustedRanges& trusted) const;

  std::vector<AddedToken> tokens_;  // sorted by content
  std::vector<bool> control_;       // [tokens_]
  std::vector<Node> nodes_;
  std::vector<Edge> edges_;
  std::array<bool, 256> starts_{};
};

}  // namespace fathom::text
