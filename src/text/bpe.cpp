// Vocabulary and pair tables, and the encoder of short pieces. Long pieces: bpe_long.cpp.
#include "text/bpe.h"

#include <algorithm>
#include <bit>

namespace fathom::text {
namespace {

constexpr std::uint64_t kEmptyPair = ~std::uint64_t{0};
constexpr std::uint64_t kRankMask = (1 << 22) - 1;
// Up to here a scan for the lowest rank beats the queues of bpe_long.cpp, and its square is small.
constexpr std::size_t kShortPiece = 128;

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
  bpe.mark_whole(ignore_merges);
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
  results_.reserve(merges.size());
  for (const Merge& merge : merges) {
    const std::uint64_t rank = results_.size();
    results_.push_back(merge.result);
    const std::uint64_t key = pair_key(merge.left, merge.right);
    std::uint64_t i = pair_hash(key) & pair_mask_;
    while (pairs_[i] != kEmptyPair && (pairs_[i] & ~kRankMask) != key) i = (i + 1) & pair_mask_;
    pairs_[i] = key | rank;  // as Hugging Face's map: of two equal lines the later holds
  }
  byte_pair_ranks_.assign(256 * 256, BpeScratch::kNone);
  for (int a = 0; a < 256; ++a) {
    for (int b = 0; b < 256; ++b) {
      if (byte_ids_[a] < 0 || byte_ids_[b] < 0) continue;
      byte_pair_ranks_[a * 256 + b] = rank_of(byte_ids_[a], byte_ids_[b]);
    }
  }
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

// Finds, once, the tokens that encode to themselves, so that most pieces cost one look-up.
void Bpe::mark_whole(bool ignore_merges) {
  TokenId largest = 0;
  vocab_.for_each([&](std::string_view, TokenId id) { largest = std::max(largest, id); });
  whole_.assign(static_cast<std::size_t>(largest) + 1, false);
  BpeScratch scratch;
  std::vector<TokenId> ids;
  std::vector<TokenId> whole;
  vocab_.for_each([&](std::string_view bytes, TokenId id) {
    ids.clear();
    if (!ignore_merges) encode(bytes, scratch, ids);
    if (ignore_merges || (ids.size() == 1 && ids[0] == id)) whole.push_back(id);
  });
  for (TokenId id : whole) whole_[id] = true;
}

std::uint32_t Bpe::rank_of(TokenId left, TokenId right) const {
  const std::uint64_t key = pair_key(left, right);
  std::uint64_t i = pair_hash(key) & pair_mask_;
  while (pairs_[i] != kEmptyPair) {
    if ((pairs_[i] & ~kRankMask) == key) return static_cast<std::uint32_t>(pairs_[i] & kRankMask);
    i = (i + 1) & pair_mask_;
  }
  return BpeScratch::kNone;
}

void Bpe::encode(std::string_view piece, BpeScratch& scratch, std::vector<TokenId>& out) const {
  if (const std::optional<TokenId> id = vocab_.find(piece); id && whole_[*id]) {
    out.push_back(*id);
  } else if (piece.size() <= kShortPiece) {
    merge_short(piece, out);
  } else {
    encode_cut(piece, scratch, out);
  }
}

// Encodes a long piece part by part: between two bytes that no merge joins, no token can lie. Parts
// are short in random text, which would else be merged in an order that misses every cache.
void Bpe::encode_cut(std::string_view piece, BpeScratch& scratch, std::vector<TokenId>& out) const {
  const auto* bytes = reinterpret_cast<const unsigned char*>(piece.data());
  std::size_t begin = 0;
  for (std::size_t i = 1; i <= piece.size(); ++i) {
    if (i < piece.size() && joined_[bytes[i - 1] * 256 + bytes[i]]) continue;
    const std::string_view part = piece.substr(begin, i - begin);
    if (part.size() <= kShortPiece) {
      merge_short(part, out);
    } else {
      merge_long(part, scratch, out);
    }
    begin = i;
  }
}

// Merges the lowest-ranked pair, leftmost first, until there is none; symbols stay dense in an
// array.
void Bpe::merge_short(std::string_view piece, std::vector<TokenId>& out) const {
  TokenId ids[kShortPiece];
  std::uint32_t ranks[kShortPiece];  // ranks[i]: of (ids[i], ids[i + 1])
  std::size_t n = piece.size();
  const auto* bytes = reinterpret_cast<const unsigned char*>(piece.data());
  for (std::size_t i = 0; i < n; ++i) ids[i] = byte_ids_[bytes[i]];
  for (std::size_t i = 0; i + 1 < n; ++i)
    ranks[i] = byte_pair_ranks_[bytes[i] * 256 + bytes[i + 1]];
  ranks[n - 1] = BpeScratch::kNone;
  while (n > 1) {
    std::uint32_t lowest = BpeScratch::kNone;
    for (std::size_t i = 0; i + 1 < n; ++i) lowest = std::min(lowest, ranks[i]);
    if (lowest == BpeScratch::kNone) break;
    const std::size_t at = std::find(ranks, ranks + n, lowest) - ranks;
    ids[at] = results_[lowest];
    std::copy(ids + at + 2, ids + n, ids + at + 1);
    std::copy(ranks + at + 2, ranks + n, ranks + at + 1);
    --n;
    ranks[at] = at + 1 < n ? rank_of(ids[at], ids[at + 1]) : BpeScratch::kNone;
    if (at > 0) ranks[at - 1] = rank_of(ids[at - 1], ids[at]);
  }
  out.insert(out.end(), ids, ids + n);
}

}  // namespace fathom::text
