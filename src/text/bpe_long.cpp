// BPE of long pieces from left to right, in a memory of one bit for each byte: an order of merges
// by rank jumps over some 20 bytes for each, which page faults and cache misses make dear once the
// piece is large.
//
// It stands on this: the merges (lowest rank first, leftmost of equals) make the tokens t1 ... tn
// of a text exactly if they make each two neighbours, joined, into just these two. For as long as
// no merge has crossed a border, what happens in two neighbours is what would happen in them alone,
// whatever the ranks; so the first merge across a border in the text would be one in the two alone,
// and the other way round. Hence a beginning of the text that ends at a border is encoded as it
// would be alone, in one way only. The encoder appends a token that stays apart from the last;
// where there is none, the length so far is closed for ever, and the last token is taken back. So a
// length is closed at most once, and the time is linear, whatever is tried first.
#include <algorithm>

#include "text/bpe.h"

namespace fathom::text {
namespace {

constexpr TokenId kNoToken = TokenTrie::kNoToken;
constexpr int kHintBits = 10;
constexpr std::size_t kHints = std::size_t{1} << kHintBits;

std::size_t hint_slot(TokenId last, TokenId longest) {
  const auto key = static_cast<std::uint64_t>(last) << 32 | static_cast<std::uint32_t>(longest);
  return key * 0x9E3779B97F4A7C15ULL >> (64 - kHintBits);
}

bool is_open(const std::vector<std::uint64_t>& open, std::size_t length) {
  return open[length / 64] >> (length % 64) & 1;
}

}  // namespace

void Bpe::encode_long(std::string_view piece, BpeScratch& scratch,
                      std::vector<TokenId>& out) const {
  const std::size_t first = out.size();
  std::vector<std::uint64_t>& open = scratch.open;
  open.assign(piece.size() / 64 + 1, ~std::uint64_t{0});
  if (scratch.hints.empty()) scratch.hints.resize(kHints, {kNoToken, kNoToken, kNoToken});
  std::size_t at = 0;  // the bytes of the tokens so far
  while (at < piece.size()) {
    const TokenId last = out.size() > first ? out.back() : kNoToken;
    const TokenId next = try_next(last, piece, at, scratch);
    if (next != kNoToken) {
      out.push_back(next);
      at += made_[next].length;
    } else {
      FATHOM_CHECK(last != kNoToken, "bytes that the merges make no tokens of");
      open[at / 64] &= ~(std::uint64_t{1} << (at % 64));
      out.pop_back();
      at -= made_[last].length;
    }
  }
}

// A token that the text has at `at`, that stays apart from `last` before it and ends at an open
// length; kNoToken if there is none. The longest, but where that led nowhere before, between the
// same tokens, what was tried instead comes first.
TokenId Bpe::try_next(TokenId last, std::string_view piece, std::size_t at,
                      BpeScratch& scratch) const {
  const TokenId longest = trie_.longest(piece.substr(at));
  FATHOM_CHECK(longest != kNoToken, "a byte of valid UTF-8 has no token");
  BpeScratch::Hint& hint = scratch.hints[hint_slot(last, longest)];
  const bool known = hint.last == last && hint.longest == longest;
  if (known && is_open(scratch.open, at + made_[hint.first_try].length)) return hint.first_try;
  TokenId token = longest;
  for (; token != kNoToken; token = static_cast<TokenId>(made_[token].shorter) - 1) {
    const std::size_t end = at + made_[token].length;
    if (!is_open(scratch.open, end)) continue;
    if (last == kNoToken || stay_apart(last, token, piece.substr(0, end), scratch)) {
      hint = {last, longest, token};
      break;
    }
  }
  return token;
}

// Whether the merges make `left` and `right` of their joined bytes, which `bytes` ends with.
bool Bpe::stay_apart(TokenId left, TokenId right, std::string_view bytes,
                     BpeScratch& scratch) const {
  const std::size_t length = made_[right].length, border = bytes.size() - length;
  const auto before = static_cast<unsigned char>(bytes[border - 1]);
  const auto after = static_cast<unsigned char>(bytes[border]);
  if (!joined_[before * 256 + after]) return true;
  if (made_[left].ordered && made_[right].ordered) return never_join(left, right);
  bytes.remove_prefix(border - made_[left].length);
  scratch.ids.resize(bytes.size());
  scratch.ranks.resize(bytes.size());
  TokenId* const ids = scratch.ids.data();
  std::size_t n = begin_symbols(bytes, ids, scratch.ranks.data());
  while (merge_lowest(n, ids, scratch.ranks.data()) != kNoRank) {
  }
  return n == 2 && ids[0] == left && ids[1] == right;
}

// The same of two tokens whose merges come in the order of their ranks. The symbols on the two
// sides of the border are taken apart backwards in time, the one that was made last first (of equal
// ranks the right one's, as the left one's merge came first). Two that stood side by side would
// have been merged if their rank came before the merge that ended this.
bool Bpe::never_join(TokenId left, TokenId right) const {
  std::uint32_t end = kNoRank;  // a merge of the two below this rank would have come
  while (rank_of(left, right) >= end) {
    const Made& a = made_[left];
    const Made& b = made_[right];
    if (a.born > b.born) {
      end = static_cast<std::uint32_t>(a.born) - 1;
      left = static_cast<TokenId>(a.right);
    } else if (b.born > 0) {
      end = static_cast<std::uint32_t>(b.born);  // the border's is the leftmost of equal ranks
      right = static_cast<TokenId>(b.left);
    } else {
      return true;
    }
  }
  return false;
}

}  // namespace fathom::text
