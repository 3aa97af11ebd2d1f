// Grouped-query attention of decode and verify rows over the paged cache of keys and values, on
// tensor cores (Ainslie et al., 2023; online softmax: Milakov and Gimelshein, 2018). A row's result
// does not depend on the rows beside it, nor on how the work was cut.
#pragma once

#include "attention_batch.h"
#include "gqa.h"
#include "gqa_decode_plan.h"

namespace fathom::kernels {

// Rows of a step, by row: `query` tokens (0: padding) that start at token `first`, after `context`
// tokens in the cache.
struct GqaDecodeRows {
  const int32_t* slot = nullptr;
  const int32_t* first = nullptr;
  const int32_t* query = nullptr;
  const int32_t* context = nullptr;
  const int32_t* block_table = nullptr;  // [slots, table_stride] of the cache's group
  int64_t table_stride = 0;
  int32_t count = 0;
};

struct GqaDecodeCall {
  GqaDecodeRows rows;
  int32_t heads = 0;
  int32_t kv_heads = 0;
  int32_t head_dims = 0;          // 64 or 128
  const void* queries = nullptr;  // bf16 [tokens, heads, head_dims]
  // bf16 [blocks, 64, 2 * kv_heads * head_dims]; or e4m3, [blocks, kv_heads] times the codes
  // [(keys, values), 64, head_dims] and then bf16 scales [(keys, values), 64].
  const void* cache = nullptr;
  bool fp8_cache = false;
  int64_t cache_blocks = 0;
  float softmax_scale = 0.0F;
  Epilogue out;                 // [tokens, heads * head_dims]; kFp8 with heads of 128, column 0
  float* partial = nullptr;     // [plan.slots(), pairs, head_dims]
  float2* statistics = nullptr;  // [plan.slots(), pairs]: peak (base 2) and sum of weights
  int32_t* arrivals = nullptr;  // [2 * plan.blocks], zero before; gqa_prepare_heads clears them
};

// Writes `out` of the rows' tokens; other tokens are left alone.
cudaError_t gqa_decode(cudaStream_t stream, const GqaDecodePlan& plan, const GqaDecodeCall& call);

struct GqaPrepareCall {
  GqaShape shape;
  AttentionBatch batch;
  GqaHeads heads;
  Rows qkv;                     // bf16
  void* queries = nullptr;      // bf16 [tokens, heads, head_dims]
  Epilogue out;                 // rows of padding tokens are cleared
  int32_t* arrivals = nullptr;  // cleared; may be null
  int32_t arrival_count = 0;
};

// Bias, norm and rope of all heads, cache write: bf16 in and out (or a cache of e4m3), head_dims
// 64, 128 or 256.
cudaError_t gqa_prepare_heads(cudaStream_t stream, const GqaPrepareCall& call);

}  // namespace fathom::kernels
