// Writes and reads caches of e4m3 numbers (fathom/fp8_cache.h). Any thread.
#pragma once

#include <cstdint>

#include "fathom/fp8_cache.h"

namespace fathom {

// One head's key or value of a token; `x` is rounded to bf16 in place. `block`: the block's first
// byte.
void store_fp8_head(const Fp8HeadsLayout& layout, uint8_t* block, int64_t token, int64_t half,
                    int64_t head, float* x);
// The same of tokens [0, count) of a block: [count, head_dims].
void load_fp8_heads(const Fp8HeadsLayout& layout, const uint8_t* block, int64_t count,
                    int64_t half, int64_t head, float* x);

// A latent and its rope key, [kv_lora + rope_dims]; rounded to bf16 in place.
void store_fp8_latent(const Fp8LatentLayout& layout, uint8_t* entry, float* x);
void load_fp8_latent(const Fp8LatentLayout& layout, const uint8_t* entry, float* x);

}  // namespace fathom
