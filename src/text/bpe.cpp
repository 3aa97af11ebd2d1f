// The encoder's entry, merging by the definition, and the encoder of short pieces. Tables:
// bpe_tables.cpp. Long pieces: bpe_long.cpp.
#include "text/bpe.h"

#include <algorithm>

namespace fathom::text {
namespace {

// Up to here a scan for the lowest rank beats the walk of bpe_long.cpp, and its square is small.
constexpr std::size_t kShortPiece = 32;

}  // namespace

void Bpe::encode(std::string_view piece, BpeScratch& scratch, std::vector<TokenId>& out) const {
  if (const std::optional<TokenId> id = vocab_.find(piece); id && whole_[*id]) {
    out.push_back(*id);
  } else if (piece.size() <= kShortPiece) {
    encode_short(piece, out);
  } else {
    encode_long(piece, scratch, out);
  }
}

// A symbol for each byte; returns their number.
std::size_t Bpe::begin_symbols(std::string_view bytes, TokenId* ids, std::uint32_t* ranks) const {
  const std::size_t n = bytes.size();
  const auto* byte = reinterpret_cast<const unsigned char*>(bytes.data());
  for (std::size_t i = 0; i < n; ++i) ids[i] = byte_ids_[byte[i]];
  for (std::size_t i = 0; i + 1 < n; ++i) ranks[i] = byte_pair_ranks_[byte[i] * 256 + byte[i + 1]];
  ranks[n - 1] = kNoRank;
  return n;
}

// Merges the lowest-ranked pair, the leftmost of equals, and returns its rank, or kNoRank when no
// pair is left. Symbols stay dense in the arrays.
std::uint32_t Bpe::merge_lowest(std::size_t& symbols, TokenId* ids, std::uint32_t* ranks) const {
  std::size_t& n = symbols;
  std::uint32_t lowest = kNoRank;
  for (std::size_t i = 0; i + 1 < n; ++i) lowest = std::min(lowest, ranks[i]);
  if (lowest == kNoRank) return kNoRank;
  const std::size_t at = std::find(ranks, ranks + n, lowest) - ranks;
  ids[at] = results_[lowest];
  std::copy(ids + at + 2, ids + n, ids + at + 1);
  std::copy(ranks + at + 2, ranks + n, ranks + at + 1);
  --n;
  ranks[at] = at + 1 < n ? rank_of(ids[at], ids[at + 1]) : kNoRank;
  if (at > 0) ranks[at - 1] = rank_of(ids[at - 1], ids[at]);
  return lowest;
}

void Bpe::encode_short(std::string_view piece, std::vector<TokenId>& out) const {
  TokenId ids[kShortPiece];
  std::uint32_t ranks[kShortPiece];
  std::size_t n = begin_symbols(piece, ids, ranks);
  while (merge_lowest(n, ids, ranks) != kNoRank) {
  }
  out.insert(out.end(), ids, ids + n);
}

}  // namespace fathom::text
