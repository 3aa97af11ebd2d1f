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
#include "text/token_trie.h"

namespace fathom::text {

// Memory that encode reuses from piece to piece; one per call of Tokenizer::encode, one thread.
struct BpeScratch {
  // What encode_long learns: which token to try between `last` and a text whose longest token is
  // `longest`.
  struct Hint {
    TokenId last, longest, first_try;
  };
  std::vector<Hint> hints;           // [kHints] by a hash of last and longest
  std::vector<std::uint64_t> open;   // a bit for each length of a long piece's beginning
  std::vector<TokenId> ids;          // of the symbols being merged
  std::vector<std::uint32_t> ranks;  // of each symbol with the one after it
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

  // Appends the ids of `piece` (not empty, valid UTF-8 or a part of it). Time linear in its length;
  // memory beside the ids: a bit for each byte.
  void encode(std::string_view piece, BpeScratch& scratch, std::vector<TokenId>& out) const;

  std::optional<TokenId> find(std::string_view bytes) const { return vocab_.find(bytes); }

 private:
  static constexpr std::uint32_t kNoRank = 0xFFFFFFFF;

  // How the merges make a token of its own bytes; all zero for one that they do not make.
  struct Made {
    std::uint64_t left : 21, right : 21;  // what its last merge joins; of a byte, nothing
    std::uint64_t length : 13;            // bytes
    std::uint64_t ordered : 1;            // no merge on the way has a lower rank than one before it
    std::uint64_t born : 22;              // rank of its last merge plus one; of a byte 0
    std::uint64_t shorter : 22;  // the next shorter such token that it begins with, plus one; or 0
  };

  explicit Bpe(TokenMap vocab) : vocab_(std::move(vocab)) {}

  Status map_bytes();
  void build_pairs(const std::vector<Merge>& merges);
  void note_joined(const std::vector<Merge>& merges);
  void note_made();
  Made make(std::string_view bytes, TokenId id, BpeScratch& scratch) const;
  void link_made();

  std::uint32_t rank_of(TokenId left, TokenId right) const;
  std::size_t begin_symbols(std::string_view bytes, TokenId* ids, std::uint32_t* ranks) const;
  std::uint32_t merge_lowest(std::size_t& symbols, TokenId* ids, std::uint32_t* ranks) const;

  void encode_short(std::string_view piece, std::vector<TokenId>& out) const;
  void encode_long(std::string_view piece, BpeScratch& scratch, std::vector<TokenId>& out) const;
  TokenId try_next(TokenId last, std::string_view piece, std::size_t at, BpeScratch& scratch) const;
  bool stay_apart(TokenId left, TokenId right, std::string_view bytes, BpeScratch& scratch) const;
  bool never_join(TokenId left, TokenId right) const;

  TokenMap vocab_;
  std::array<TokenId, 256> byte_ids_{};
  std::vector<std::uint32_t> byte_pair_ranks_;  // [256 * 256] rank of two single bytes
  // [256 * 256] whether a merge has a left that ends with the one byte and a right that begins with
  // the other.
  std::vector<bool> joined_;
  // Open addressing: left << 43 | right << 22 | rank, or kEmptyPair.
  std::vector<std::uint64_t> pairs_;
  std::uint64_t pair_mask_ = 0;
  // By the same hash, of more bits: false where no merge is. Most questions end here, in memory
  // that the caches hold.
  std::vector<bool> pair_filter_;
  std::uint64_t filter_mask_ = 0;
  std::vector<TokenId> results_;  // [merges] the token that a rank makes
  std::vector<bool> whole_;       // [vocab] a piece equal to this token encodes to it
  std::vector<Made> made_;        // [vocab]
  TokenTrie trie_;                // the tokens that the merges make
};

}  // namespace fathom::text
