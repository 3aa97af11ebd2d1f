// BPE of long pieces. Positions wait in a list per rank; a heap orders only the ranks that have
// waiting positions. A text of n bytes has few distinct ranks, or short lists, so the whole is
// close to linear, and O(n log n) at worst. The order of merges is that of a heap over (rank,
// position): lowest rank, then leftmost.
#include <algorithm>
#include <functional>

#include "text/bpe.h"

namespace fathom::text {
namespace {

constexpr std::uint32_t kNone = BpeScratch::kNone;
constexpr TokenId kDead = -2;

}  // namespace

void Bpe::merge_long(std::string_view piece, BpeScratch& scratch, std::vector<TokenId>& out) const {
  start_long(piece, scratch);
  while (!scratch.ranks.empty()) {
    std::pop_heap(scratch.ranks.begin(), scratch.ranks.end(), std::greater<>());
    const std::uint32_t rank = scratch.ranks.back();
    scratch.ranks.pop_back();
    merge_rank(rank, scratch);
  }
  for (std::uint32_t i = 0; i != kNone; i = scratch.symbols[i].next)
    out.push_back(scratch.symbols[i].id);
}

void Bpe::start_long(std::string_view piece, BpeScratch& scratch) const {
  if (scratch.heads.empty()) {
    scratch.heads.assign(results_.size(), kNone);
    scratch.tails.assign(results_.size(), kNone);
  }
  const auto n = static_cast<std::uint32_t>(piece.size());
  const auto* bytes = reinterpret_cast<const unsigned char*>(piece.data());
  scratch.entries.clear();
  scratch.symbols.resize(n);
  for (std::uint32_t i = 0; i < n; ++i) {
    const bool last = i + 1 == n;
    scratch.symbols[i] = {byte_ids_[bytes[i]], last ? kNone : i + 1, i == 0 ? kNone : i - 1,
                          last ? kNone : byte_pair_ranks_[bytes[i] * 256 + bytes[i + 1]]};
    enqueue(i, scratch);
  }
}

// Puts a position at the end of its rank's list.
void Bpe::enqueue(std::uint32_t position, BpeScratch& scratch) const {
  const std::uint32_t rank = scratch.symbols[position].rank;
  if (rank == kNone) return;
  const auto entry = static_cast<std::uint32_t>(scratch.entries.size());
  scratch.entries.push_back({position, kNone});
  if (scratch.heads[rank] == kNone) {
    scratch.heads[rank] = entry;
    scratch.ranks.push_back(rank);
    std::push_heap(scratch.ranks.begin(), scratch.ranks.end(), std::greater<>());
  } else {
    scratch.entries[scratch.tails[rank]].next = entry;
  }
  scratch.tails[rank] = entry;
}

// Merges every waiting position of a rank, left to right; gives way if a merge wakes a lower rank,
// which only vocabularies with several merges for one token can do.
void Bpe::merge_rank(std::uint32_t rank, BpeScratch& scratch) const {
  std::vector<std::uint32_t>& turn = scratch.turn;
  turn.clear();
  for (std::uint32_t e = scratch.heads[rank]; e != kNone; e = scratch.entries[e].next) {
    turn.push_back(scratch.entries[e].position);
  }
  scratch.heads[rank] = kNone;
  if (!std::is_sorted(turn.begin(), turn.end())) std::sort(turn.begin(), turn.end());
  for (std::size_t i = 0; i < turn.size(); ++i) {
    const std::uint32_t position = turn[i];
    if (scratch.symbols[position].id == kDead || scratch.symbols[position].rank != rank) continue;
    if (!scratch.ranks.empty() && scratch.ranks.front() < rank) {
      for (; i < turn.size(); ++i) {
        const BpeScratch::Symbol& symbol = scratch.symbols[turn[i]];
        if (symbol.id != kDead && symbol.rank == rank) enqueue(turn[i], scratch);
      }
      return;
    }
    merge_at(position, scratch);
  }
}

void Bpe::merge_at(std::uint32_t position, BpeScratch& scratch) const {
  BpeScratch::Symbol& symbol = scratch.symbols[position];
  BpeScratch::Symbol& eaten = scratch.symbols[symbol.next];
  symbol.id = results_[symbol.rank];
  symbol.next = eaten.next;
  eaten.id = kDead;
  symbol.rank = kNone;
  if (symbol.next != kNone) {
    BpeScratch::Symbol& right = scratch.symbols[symbol.next];
    right.previous = position;
    symbol.rank = rank_of(symbol.id, right.id);
    enqueue(position, scratch);
  }
  if (symbol.previous != kNone) {
    BpeScratch::Symbol& left = scratch.symbols[symbol.previous];
    left.rank = rank_of(left.id, symbol.id);
    enqueue(symbol.previous, scratch);
  }
}

}  // namespace fathom::text
