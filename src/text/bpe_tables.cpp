// What Bpe knows of its vocabulary and merges, worked out once.
#include <algorithm>
#include <bit>

#include "text/bpe.h"

namespace fathom::text {
namespace {

constexpr std::uint64_t kEmptyPair = ~std::uint64_t{0};
constexpr std::uint64_t kRankMask = (1 << 22) - 1;
constexpr std::size_t kFilterBits = 4;  // per slot of the pair table, so 8 to 16 per merge

std::uint64_t pair_key(TokenId left, TokenId right) {
  return static_cast<std::uint64_t>(left) << 43 | static_cast<std::uint64_t>(right) << 22;
}

std::uint64_t pair_hash(std::uint64_t key) {
  key *= 0x9E3779B97F4A7C15ULL;
  return key ^ (key >> 31);
}

bool occurs_in_utf8(int byte) { return byte != 0xC0 && byte != 0xC1 && byte < 0xF5; }

}  // namespace

Result<Bpe> Bpe::build(TokenMap vocab, const std::vector<Merge>& merges, bool ignore_merges) {
  FATHOM_CHECK(merges.size() <= kMaxMerges, "the loader bounds the number of merges");
  Bpe bpe(std::move(vocab));
  FATHOM_RETURN_IF_ERROR(bpe.map_bytes());
  bpe.build_pairs(merges);
  bpe.note_joined(merges);
  bpe.note_made();
  bpe.whole_.assign(bpe.made_.size(), ignore_merges);
  for (std::size_t id = 0; id < bpe.made_.size(); ++id) {
    if (bpe.made_[id].length > 0) bpe.whole_[id] = true;
  }
  bpe.link_made();
  return bpe;
}

Status Bpe::map_bytes() {
  for (int b = 0; b < 256; ++b) {
    const char byte = static_cast<char>(b);
    const std::optional<TokenId> id = vocab_.find({&byte, 1});
    if (!id && occurs_in_utf8(b)) {
      return invalid_argument("model.vocab has no token for byte " + std::to_string(b) +
                              ": not a byte-level vocabulary");
    }
    byte_ids_[b] = id.value_or(-1);
  }
  return Status::ok();
}

void Bpe::build_pairs(const std::vector<Merge>& merges) {
  const std::size_t slots = std::bit_ceil(merges.size() * 2 + 16);
  pairs_.assign(slots, kEmptyPair);
  pair_mask_ = slots - 1;
  pair_filter_.assign(slots * kFilterBits, false);
  filter_mask_ = pair_filter_.size() - 1;
  results_.reserve(merges.size());
  for (const Merge& merge : merges) {
    const std::uint64_t rank = results_.size();
    results_.push_back(merge.result);
    const std::uint64_t key = pair_key(merge.left, merge.right);
    std::uint64_t i = pair_hash(key) & pair_mask_;
    while (pairs_[i] != kEmptyPair && (pairs_[i] & ~kRankMask) != key) i = (i + 1) & pair_mask_;
    pairs_[i] = key | rank;  // as Hugging Face's map: of two equal lines the later holds
    pair_filter_[pair_hash(key) & filter_mask_] = true;
  }
  byte_pair_ranks_.assign(256 * 256, kNoRank);
  for (int a = 0; a < 256; ++a) {
    for (int b = 0; b < 256; ++b) {
      if (byte_ids_[a] < 0 || byte_ids_[b] < 0) continue;
      byte_pair_ranks_[a * 256 + b] = rank_of(byte_ids_[a], byte_ids_[b]);
    }
  }
}

std::uint32_t Bpe::rank_of(TokenId left, TokenId right) const {
  const std::uint64_t key = pair_key(left, right), hash = pair_hash(key);
  if (!pair_filter_[hash & filter_mask_]) return kNoRank;
  std::uint64_t i = hash & pair_mask_;
  while (pairs_[i] != kEmptyPair) {
    if ((pairs_[i] & ~kRankMask) == key) return static_cast<std::uint32_t>(pairs_[i] & kRankMask);
    i = (i + 1) & pair_mask_;
  }
  return kNoRank;
}

void Bpe::note_joined(const std::vector<Merge>& merges) {
  std::vector<std::pair<unsigned char, unsigned char>> ends;  // [ids] first and last byte
  vocab_.for_each([&ends](std::string_view bytes, TokenId id) {
    if (ends.size() <= static_cast<std::size_t>(id)) ends.resize(id + 1);
    ends[id] = {bytes.front(), bytes.back()};
  });
  joined_.assign(256 * 256, false);
  for (const Merge& merge : merges) {
    joined_[ends[merge.left].second * 256 + ends[merge.right].first] = true;
  }
}

void Bpe::note_made() {
  TokenId largest = 0;
  vocab_.for_each([&](std::string_view, TokenId id) { largest = std::max(largest, id); });
  made_.assign(static_cast<std::size_t>(largest) + 1, Made{});
  BpeScratch scratch;
  vocab_.for_each(
      [&](std::string_view bytes, TokenId id) { made_[id] = make(bytes, id, scratch); });
}

// Merges a token's bytes by the definition, and notes how that ends.
Bpe::Made Bpe::make(std::string_view bytes, TokenId id, BpeScratch& scratch) const {
  scratch.ids.resize(bytes.size());
  scratch.ranks.resize(bytes.size());
  TokenId* const ids = scratch.ids.data();
  std::size_t n = begin_symbols(bytes, ids, scratch.ranks.data());
  if (std::find(ids, ids + n, -1) != ids + n) return {};  // a byte that never occurs in UTF-8
  Made made{};
  made.ordered = 1;
  while (n > 1) {
    const TokenId left = ids[0], right = ids[1];
    const std::uint32_t rank = merge_lowest(n, ids, scratch.ranks.data());
    if (rank == kNoRank) return {};
    if (rank + 1 < made.born) made.ordered = 0;
    made.born = rank + 1;
    made.left = static_cast<std::uint64_t>(left);  // right in the last turn, which has two symbols
    made.right = static_cast<std::uint64_t>(right);
  }
  if (ids[0] != id) return {};
  made.length = bytes.size();
  return made;
}

// The trie of the tokens that merges make, and each one's link to the next shorter on its path.
void Bpe::link_made() {
  std::vector<TokenTrie::Entry> tokens;
  vocab_.for_each([&](std::string_view bytes, TokenId id) {
    if (made_[id].length > 0) tokens.emplace_back(bytes, id);
  });
  std::sort(tokens.begin(), tokens.end());
  std::vector<TokenTrie::Entry> path;  // of the token at hand: those that it begins with
  for (const TokenTrie::Entry& token : tokens) {
    while (!path.empty() && !token.first.starts_with(path.back().first)) path.pop_back();
    if (!path.empty()) made_[token.second].shorter = path.back().second + 1;
    path.push_back(token);
  }
  trie_ = TokenTrie(tokens);
}

}  // namespace fathom::text
