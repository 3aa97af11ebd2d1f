// Which decode-attention kernel runs a step's rows, and how its work is cut: pure host arithmetic,
// no CUDA, tested without a GPU. Every figure depends on shapes that the host knows, never on a
// sequence's length, so that a step stays one graph for its shape.
#pragma once

#include <algorithm>
#include <cstdint>

namespace fathom::kernels {

// Decode and verify rows over a paged latent cache (DeepSeek-V2, section 2.1.2).
struct MlaDecodeDesc {
  int32_t rows = 0;              // sequences, padding included
  int32_t query_tokens_max = 1;  // of a row: 1, or more when drafts are verified
  int32_t heads = 0;
  int32_t kv_lora = 512;
  int32_t rope_dims = 64;
  int32_t block_tokens = 64;
  bool bf16 = true;        // queries, and the cache
  bool fp8_cache = false;  // unless its entries are FP8: kMlaFp8EntryBytes each
  bool deterministic = false;  // fixed cuts, or none of these kernels
  int32_t multiprocessors = 132;
};

enum class MlaDecodeKind : uint8_t {
  kPlain,   // kernels/attention.cu
  kNarrow,  // up to 64 (token, head) pairs a sequence: cached tokens are the rows of the products
  kWide     // tiles of 64 pairs: the pairs are the rows
};

struct MlaDecodeConfig {
  MlaDecodeKind kind = MlaDecodeKind::kPlain;
  int32_t tile_pairs = 0;  // (token, head) pairs that one block works on
  int32_t tiles = 0;       // of pairs, a sequence
  int32_t cluster = 1;     // blocks that share what they copy
  int32_t parts = 0;       // equal shares of the step's cached tokens; a share takes `tiles` blocks
  int32_t overhead = 1;    // cost of starting a sequence, in blocks of 64 cached tokens
  // Sequences are cut at the places of mla_cuts.h alone and every stretch is summed for itself: a
  // token's result is a function of its own sequence. Else parts are equal and cut anywhere.
  bool fixed_cuts = false;
  int32_t slots = 0;      // partial results of sequences that were cut
  bool few_rows = false;  // the merge gives one (token, head) pair a block of its own

  int32_t blocks() const { return parts * tiles; }
  int64_t partial_pairs() const { return int64_t{slots} * tiles * tile_pairs; }
};

inline constexpr int32_t kMlaLatent = 512;
inline constexpr int32_t kMlaRope = 64;
inline constexpr int32_t kMlaEntry = kMlaLatent + kMlaRope;
// 512 e4m3 codes, a float32 scale for each 128 of them, 64 bf16 of the rope's key.
inline constexpr int32_t kMlaFp8EntryBytes = kMlaLatent + 4 * 4 + kMlaRope * 2;
inline constexpr int32_t kMlaBlockTokens = 64;
inline constexpr int32_t kMlaRowsMax = 8192;  // the schedule keeps a count for each on chip
inline constexpr int32_t kMlaPartsMax = 512;
inline constexpr int32_t kMlaRowSlotsMax = 512;  // partial results of one row

inline MlaDecodeConfig choose_mla_decode(const MlaDecodeDesc& d) {
  MlaDecodeConfig c;
  const bool fits = d.bf16 && d.kv_lora == kMlaLatent && d.rope_dims == kMlaRope &&
                    d.block_tokens == kMlaBlockTokens && d.rows > 0 && d.rows <= kMlaRowsMax &&
                    d.heads > 0 && d.query_tokens_max > 0;
  if (!fits) return c;
  const int32_t pairs = d.heads * d.query_tokens_max;
  c.kind = pairs <= 64 ? MlaDecodeKind::kNarrow : MlaDecodeKind::kWide;
  if (d.fp8_cache && c.kind == MlaDecodeKind::kWide) return {};
  c.tile_pairs = pairs <= 16 || d.fp8_cache ? 16 : pairs <= 64 ? 32 : 64;
  c.tiles = (pairs + c.tile_pairs - 1) / c.tile_pairs;
  c.cluster = c.kind == MlaDecodeKind::kWide && c.tiles % 2 == 0 ? 2 : 1;
  c.parts = std::clamp(d.multiprocessors / c.tiles, 1, kMlaPartsMax);
  c.few_rows = d.rows * 4 <= c.parts;
  c.fixed_cuts = c.kind == MlaDecodeKind::kNarrow;
  if (d.deterministic && !c.fixed_cuts) return {};
  // Free cuts: a part begins and ends inside a sequence at most once each. Fixed cuts: every
  // stretch behind a sequence's first cut; 12 a part hold 1.5 million cached tokens of sequences of
  // any length, and when they do not suffice the last sequences stay uncut.
  c.slots = c.fixed_cuts ? std::min(12 * c.parts, d.rows * kMlaRowSlotsMax) : 2 * c.parts;
  return c;
}

}  // namespace fathom::kernels
