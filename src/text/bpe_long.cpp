// BPE of long pieces. Positions wait in a list per rank; a heap orders only the ranks that have
// waiting positions. A text of n bytes has few distinct ranks, or short lists, so the whole is
// close to linear, and O(n log n) at worst. The order of merges is that of a heap over (rank,
// position): lowest rank, then leftmost. A byte of text costs 8 bytes of symbols and at most 8 of
// entries.
#include <algorithm>
#include <functional>

#include "text/bpe.h"

namespace fathom::text {
namespace {

constexpr std::uint32_t kNone = BpeScratch::kNone;
constexpr std::uint64_t kDead = BpeScratch::kDead;
constexpr std::uint64_t kNoRank = BpeScratch::kNoRank;

}  // namespace

void Bpe::merge_long(std::string_view piece, BpeScratch& scratch, std::vector<TokenId>& out) const {
  start_long(piece, scratch);
  while (!scratch.ranks.empty()) {
    std::pop_heap(scratch.ranks.begin(), scratch.ranks.end(), std::greater<>());
    const std::uint32_t rank = scratch.ranks.back();
    scratch.ranks.pop_back();
    merge_rank(rank, scratch);
  }
  for (std::size_t i = 0; i < piece.size(); i += scratch.symbols[i].length) {
    out.push_back(static_cast<TokenId>(scratch.symbols[i].id));
  }
}

void Bpe::start_long(std::string_view piece, BpeScratch& scratch) const {
  if (scratch.heads.empty()) {
    scratch.heads.assign(results_.size(), kNone);
    scratch.tails.assign(results_.size(), kNone);
  }
  const auto n = static_cast<std::uint32_t>(piece.size());
  const auto* bytes = reinterpret_cast<const unsigned char*>(piece.data());
  scratch.entries.clear();
  scratch.free_entries = kNone;
  scratch.symbols.resize(n);
  for (std::uint32_t i = 0; i < n; ++i) {
    const std::uint32_t rank = i + 1 == n ? kNone : byte_pair_ranks_[bytes[i] * 256 + bytes[i + 1]];
    scratch.symbols[i] = {static_cast<std::uint64_t>(byte_ids_[bytes[i]]),
                          rank == kNone ? kNoRank : rank, 1};
    enqueue(i, scratch);
  }
}

// Puts a position at the end of its rank's list.
void Bpe::enqueue(std::uint32_t position, BpeScratch& scratch) const {
  const std::uint64_t rank = scratch.symbols[position].rank;
  if (rank == kNoRank) return;
  std::uint32_t entry = scratch.free_entries;
  if (entry == kNone) {
    entry = static_cast<std::uint32_t>(scratch.entries.size());
    scratch.entries.push_back({position, kNone});
  } else {
    scratch.free_entries = scratch.entries[entry].next;
    scratch.entries[entry] = {position, kNone};
  }
  if (scratch.heads[rank] == kNone) {
    scratch.heads[rank] = entry;
    scratch.ranks.push_back(static_cast<std::uint32_t>(rank));
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
  scratch.entries[scratch.tails[rank]].next = scratch.free_entries;
  scratch.free_entries = scratch.heads[rank];
  scratch.heads[rank] = kNone;
  if (!std::is_sorted(turn.begin(), turn.end())) std::sort(turn.begin(), turn.end());
  const auto waits = [&scratch, rank](std::uint32_t position) {
    const BpeScratch::Symbol& symbol = scratch.symbols[position];
    return symbol.id != kDead && symbol.rank == rank;
  };
  for (std::size_t i = 0; i < turn.size(); ++i) {
    if (!waits(turn[i])) continue;
    if (!scratch.ranks.empty() && scratch.ranks.front() < rank) {
      for (; i < turn.size(); ++i) {
        if (waits(turn[i])) enqueue(turn[i], scratch);
      }
      return;
    }
    merge_at(turn[i], scratch);
  }
}

// The rank of the symbol at `position` with the one after it.
std::uint64_t Bpe::rank_at(std::uint32_t position, const BpeScratch& scratch) const {
  const BpeScratch::Symbol& symbol = scratch.symbols[position];
  const std::uint64_t next = position + symbol.length;
  if (next == scratch.symbols.size()) return kNoRank;
  const std::uint32_t rank =
      rank_of(static_cast<TokenId>(symbol.id), static_cast<TokenId>(scratch.symbols[next].id));
  return rank == kNone ? kNoRank : rank;
}

void Bpe::merge_at(std::uint32_t position, BpeScratch& scratch) const {
  BpeScratch::Symbol& symbol = scratch.symbols[position];
  BpeScratch::Symbol& eaten = scratch.symbols[position + symbol.length];
  symbol.id = static_cast<std::uint64_t>(results_[symbol.rank]);
  symbol.length += eaten.length;
  eaten.id = kDead;
  BpeScratch::Symbol& last = scratch.symbols[position + symbol.length - 1];
  last.id = kDead;
  last.length = symbol.length;
  symbol.rank = rank_at(position, scratch);
  enqueue(position, scratch);
  if (position > 0) {
    const auto left = static_cast<std::uint32_t>(position - scratch.symbols[position - 1].length);
    scratch.symbols[left].rank = rank_at(left, scratch);
    enqueue(left, scratch);
  }
}

}  // namespace fathom::text
