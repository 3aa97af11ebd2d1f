// What comes before MLA's decode attention, in one launch: tokens' latents into the paged cache,
// and the decode rows' queries into the latent's space (DeepSeek-V2, section 2.1.2).
#pragma once

#include "attention.h"

namespace fathom::kernels {

inline constexpr int32_t kMlaNope = 128;
inline constexpr int32_t kMlaValue = 128;

// Reads weights, rows and tables before earlier kernels end. Lets the next kernel start only after
// they have: so that kernels behind it may read whatever lay in memory before this one's inputs
// were made (the step's tables, its schedule, cached blocks that hold none of its tokens) without
// waiting.
struct MlaEntryCall {
  MlaShape shape;        // nope 128, rope 64, kv_lora 512, blocks of 64 tokens
  AttentionBatch batch;  // all tokens' entries are written; bf16, or FP8 entries of 656 bytes
  Rows kv_a;             // bf16 [tokens, 576], 16-byte rows
  const float* kv_norm = nullptr;  // [512]
  Rows q;                          // bf16 [tokens, heads * 192], 16-byte rows
  const void* up_key = nullptr;    // bf16 [heads, 512, 128]
  void* queries = nullptr;         // bf16 [query_tokens, heads, 576]
  int64_t query_tokens = 0;        // the first ones
};

bool mla_entry_fits(const MlaEntryCall& call);
cudaError_t mla_entry(cudaStream_t stream, const MlaEntryCall& call);

}  // namespace fathom::kernels
