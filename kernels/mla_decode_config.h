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
  bool bf16 = true;  // queries and cache
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
  bool few_rows = false;   // the merge of pieces spreads one head over a whole block

  int32_t blocks() const { return parts * tiles; }
  // A part begins and ends inside a sequence at most once each: two partial results.
  int64_t partial_pairs() const { return int64_t{2} * parts * tiles * tile_pairs; }
};

inline constexpr int32_t kMlaLatent = 512;
inline constexpr int32_t kMlaRope = 64;
inline constexpr int32_t kMlaEntry = kMlaLatent + kMlaRope;
inline constexpr int32_t kMlaBlockTokens = 64;
inline constexpr int32_t kMlaRowsMax = 8192;  // the schedule keeps a count for each on chip
inline constexpr int32_t kMlaPartsMax = 512;

inline MlaDecodeConfig choose_mla_decode(const MlaDecodeDesc& d) {
  MlaDecodeConfig c;
  const bool fits = d.bf16 && d.kv_lora == kMlaLatent && d.rope_dims == kMlaRope &&
                    d.block_tokens == kMlaBlockTokens && d.rows > 0 && d.rows <= kMlaRowsMax &&
                    d.heads > 0 && d.query_tokens_max > 0;
  if (!fits) return c;
  const int32_t pairs = d.heads * d.query_tokens_max;
  c.kind = pairs <= 64 ? MlaDecodeKind::kNarrow : MlaDecodeKind::kWide;
  c.tile_pairs = pairs <= 16 ? 16 : pairs <= 64 ? 32 : 64;
  c.tiles = (pairs + c.tile_pairs - 1) / c.tile_pairs;
  c.cluster = c.kind == MlaDecodeKind::kWide && c.tiles % 2 == 0 ? 2 : 1;
  c.parts = std::clamp(d.multiprocessors / c.tiles, 1, kMlaPartsMax);
  c.few_rows = d.rows * 4 <= c.parts;
  return c;
}

}  // namespace fathom::kernels
