// What every attention over a paged cache is told of a step. A view; the rank's thread fills it.
#pragma once

#include "format.h"

namespace fathom::kernels {

// Where tokens stand and where their cache is.
struct AttentionBatch {
  const int32_t* positions = nullptr;    // [tokens]
  const int32_t* token_row = nullptr;    // [tokens]
  const uint8_t* token_valid = nullptr;  // [tokens]
  const int32_t* row_slot = nullptr;     // [rows]
  const int32_t* block_table = nullptr;  // [slots, table_stride] of the cache's group
  int64_t table_stride = 0;
  const float* cosines = nullptr;  // [positions, roped dimensions / 2]
  const float* sines = nullptr;
  int64_t rope_stride = 0;
  // [blocks, block_tokens, entry]: kv_lora + rope_dims of a latent, or all keys and then all
  // values.
  void* cache = nullptr;
  Format cache_format = Format::kF32;
  int64_t tokens = 0;
};

}  // namespace fathom::kernels
