// Heads of grouped attention made ready for many tokens: gqa_prepare_heads in another shape.
#pragma once

#include "gqa_decode.h"

namespace fathom::kernels {

// Fewer are a wave of blocks either way.
inline constexpr int64_t kPrepareManyTokens = 256;

// Whether it takes this call: many tokens, a cache of bf16 or e4m3, heads of 128 dimensions without
// norms, all of it at multiples of 16 bytes.
bool gqa_prepares_many(const GqaPrepareCall& call);

// What gqa_prepare_heads writes, bit for bit.
cudaError_t gqa_prepare_many(cudaStream_t stream, const GqaPrepareCall& call);

}  // namespace fathom::kernels
