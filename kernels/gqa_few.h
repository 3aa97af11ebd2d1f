// Grouped-query attention of a step of few rows of one token each, in one kernel: bias, norm and
// rope of the heads, cache write, attention. What each row's arithmetic is, and where it is cut, is
// as gqa_prepare_heads and gqa_decode have it: the results have the same bits
// (docs/kernels/gqa_decode.md).
#pragma once

#include "gqa_decode.h"

namespace fathom::kernels {

// A counter for each row's key head; of each its pairs' partial results of a segment's chunks.
inline constexpr int64_t kGqaFewWords =
    kGqaFewHeadsMax + int64_t{kGqaFewHeadsMax} * kGqaSegmentChunks * 8 * (128 + 4);

// rows.first[r] is r and rows.query[r] at most 1; tokens whose row has no query are padding. A bf16
// cache; arrivals are not used; partial and statistics: [plan.slots()].
struct GqaFewCall {
  GqaDecodeCall decode;
  AttentionBatch batch;
  GqaHeads heads;
  float norm_epsilon = 0.0F;
  Rows qkv;  // bf16
  uint32_t* exchange = nullptr;  // [kGqaFewWords], zero before the first call and after each
};

cudaError_t gqa_few(cudaStream_t stream, const GqaDecodePlan& plan, const GqaFewCall& call);

}  // namespace fathom::kernels
