// Byte-pair encoding of one piece of text: the vocabulary of byte strings and the ranked merges.
// Immutable after build; any thread. Working memory is the caller's BpeScratch.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "fathom/status.h"
#include "text/token_map.h"

namespace fathom::text {

// Memory that encode reuses from piece to piece; one per call of Tokenizer::encode, one thread.
struct BpeScratch {
  static constexpr std::uint32_t kNone = 0xFFFFFFFF;

  // A symbol lies at its first byte. The slots of its other bytes are dead, and the last of them
  // holds its length too, so that the symbol after it finds its start.
  struct Symbol {
    std::uint64_t id : 21;      // kDead in a slot that begins no symbol
    std::uint64_t rank : 22;    // of the merge with the next symbol; kNoRank when there is none
    std::uint64_t length : 13;  // bytes
  };
  static constexpr std::uint64_t kDead = (1 << 21) - 1;
  static constexpr std::uint64_t kNoRank = (1 << 22) - 1;

  struct Entry {  // a position waiting for its rank's turn
    std::uint32_t position, next;
  };
  std::vector<Symbol> symbols;  // [bytes of the piece]
  std::vector<Entry> entries;
  std::uint32_t free_entries = kNone;       // a list in `entries`
  std::vector<std::uint32_t> heads, tails;  // per rank: a list in `entries`
  std::vector<std::uint32_t> ranks;         // min-heap of the ranks whose list is not empty
  std::vector<std::uint32_t> turn;          // positions of the rank being merged
};

// One line of the merges list, as ids.
struct Merge {
  TokenId left, right, result;
};

class Bpe {
 public:
  // Limits of the packed tables below, far over any known vocabulary.
  static constexpr std::int32_t kMaxVocab = (1 << 21) - 1;
  static constexpr std::size_t kMaxMerges = (1 << 22) - 2;
  static constexpr std::size_t kMaxTokenBytes = 4096;

  // `vocab` maps raw byte strings to ids below kMaxVocab; `merges` are in rank order. With
  // `ignore_merges` a piece that is a token is that token even where the merges would not build it
  // (Llama 3). INVALID_ARGUMENT: a byte that occurs in UTF-8 has no token.
  static Result<Bpe> build(TokenMap vocab, const std::vector<Merge>& merges, bool ignore_merges);

  // Appends the ids of `piece` (not empty, valid UTF-8 or a part of it). Time O(n log n) in its
  // length.
  void encode(std::string_view piece, BpeScratch& scratch, std::vector<TokenId>& out) const;

  std::optional<TokenId> find(std::string_view bytes) const { return vocab_.find(bytes); }

 private:
  explicit Bpe(TokenMap vocab) : vocab_(std::move(vocab)) {}

  Status map_bytes();
  void build_pairs(const std::vector<Merge>& merges);
  void note_joined(const std::vector<Merge>& merges);
  void mark_whole(bool ignore_merges);

  std::uint32_t rank_of(TokenId left, TokenId right) const;
  void encode_cut(std::string_view piece, BpeScratch& scratch, std::vector<TokenId>& out) const;
  void merge_short(std::string_view piece, std::vector<TokenId>& out) const;
  void merge_long(std::string_view piece, BpeScratch& scratch, std::vector<TokenId>& out) const;
  void start_long(std::string_view piece, BpeScratch& scratch) const;
  void merge_rank(std::uint32_t rank, BpeScratch& scratch) const;
  void merge_at(std::uint32_t position, BpeScratch& scratch) const;
  std::uint64_t rank_at(std::uint32_t position, const BpeScratch& scratch) const;
  void enqueue(std::uint32_t position, BpeScratch& scratch) const;

  TokenMap vocab_;
  std::array<TokenId, 256> byte_ids_{};
  std::vector<std::uint32_t> byte_pair_ranks_;  // [256 * 256] rank of two single bytes
  // [256 * 256] whether a merge has a left that ends with the one byte and a right that begins with
  // the other.
  std::vector<bool> joined_;
  // Open addressing: left << 43 | right << 22 | rank, or kEmptyPair.
  std::vector<std::uint64_t> pairs_;
  std::uint64_t pair_mask_ = 0;
  std::vector<TokenId> results_;  // [merges] the token that a rank makes
  std::vector<bool> whole_;       // [vocab] a piece equal to this token encodes to it
};

}  // namespace fathom::text
