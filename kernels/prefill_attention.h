// Attention of prefill rows on Hopper's tensor cores, causal, with a cached prefix: grouped-query
// attention over the paged cache, and multi-head latent attention over keys and values made from
// the latents.
#pragma once

#include "format.h"
#include "prefill_config.h"

namespace fathom::kernels {

// Rows [begin, end) of a step are its prefill rows; all arrays are the step's.
struct PrefillRows {
  int32_t begin = 0;
  int32_t end = 0;
  const int32_t* slot = nullptr;
  const int32_t* first = nullptr;        // [rows + 1] tokens; the difference is a row's bound
  const int32_t* query = nullptr;        // tokens that it computes: up to the bound
  const int32_t* context = nullptr;      // tokens in the cache before the step
  const int32_t* block_table = nullptr;  // [slots, table_stride] of the cache's group
  int64_t table_stride = 0;
};

struct GqaPrefillCall {
  PrefillRows rows;
  int64_t tokens = 0;             // of the step
  int32_t query_tiles = 0;        // prefill_tiles_max
  const void* queries = nullptr;  // bf16 [tokens, heads, head_dims]
  const void* cache = nullptr;    // bf16 [blocks, 64, 2 * kv_heads * head_dims], or e4m3
  int64_t blocks = 0;
  float softmax_scale = 0.0F;
  Epilogue out;  // [tokens, heads * head_dims]; kFp8 for 128 dimensions a head, from column 0
};

// Writes `out` of the prefill rows' tokens, zeros for their padding; other rows are left alone.
cudaError_t gqa_prefill(cudaStream_t stream, const GqaPrefillDesc& desc,
                        const GqaPrefillCall& call);

// The same over an e4m3 cache (blocks as in gqa_decode.h), by way of `spread`.
struct GqaSpreadMemory {
  void* spread = nullptr;  // bf16 [plan.spread_numbers()]
  float* carry = nullptr;  // [plan.carry_floats()]
};
cudaError_t gqa_prefill_fp8(cudaStream_t stream, const GqaPrefillDesc& desc,
                            const GqaSpreadPlan& plan, const GqaPrefillCall& call,
                            const GqaSpreadMemory& memory);

struct MlaPrefillCall {
  PrefillRows rows;
  int64_t tokens = 0;                  // of the step
  const void* queries = nullptr;       // bf16 [tokens, heads, 192]: the first 128 of each are read
  int64_t query_stride = 0;            // of a token, in numbers; a multiple of 8
  const void* rope_queries = nullptr;  // bf16 [tokens, heads, 64], turned
  const void* cache = nullptr;         // bf16 [blocks, 64, 576]; e4m3: bytes [blocks, 64, 656]
  int64_t blocks = 0;
  void* spread = nullptr;        // e4m3 cache: bf16 [plan.spread_numbers()]
  const void* up_key = nullptr;  // bf16 [heads, 128, 512]; across: [heads, 512, 128]
  bool up_key_across = false;
  const void* up_value = nullptr;  // bf16 [heads, 128, 512]
  float softmax_scale = 0.0F;
  Epilogue out;              // [tokens, heads * 128]
  void* expanded = nullptr;  // bf16 [plan.expanded_numbers()]
  float* carry = nullptr;    // [plan.carry_floats()]
};

cudaError_t mla_prefill(cudaStream_t stream, const MlaPrefillDesc& desc, const MlaPrefillPlan& plan,
                        const MlaPrefillCall& call);

// One slice of one group of heads, in two halves, and what puts splits together after a group's
// last slice; `mla_prefill` runs all. For measurements.
struct MlaPrefillPart {
  int32_t first_head = 0;
  int32_t slice = 0;
};
cudaError_t mla_prefill_expand(cudaStream_t stream, const MlaPrefillDesc& desc,
                               const MlaPrefillPlan& plan, const MlaPrefillCall& call,
                               const MlaPrefillPart& part);
cudaError_t mla_prefill_attend(cudaStream_t stream, const MlaPrefillDesc& desc,
                               const MlaPrefillPlan& plan, const MlaPrefillCall& call,
                               const MlaPrefillPart& part);
cudaError_t mla_prefill_join(cudaStream_t stream, const MlaPrefillPlan& plan,
                             const MlaPrefillCall& call, int32_t first_head);

// Tells the driver what the kernels need; once, before anything is captured.
cudaError_t load_prefill_attention();

// out [tokens, heads, 64] bf16: the last 64 of each head's 192 columns of q, turned by the token's
// position (interleaved pairs). Of the tokens of prefill rows that are valid.
struct RopeQueries {
  const int32_t* positions = nullptr;
  const int32_t* token_row = nullptr;
  const uint8_t* token_valid = nullptr;
  const float* cosines = nullptr;
  const float* sines = nullptr;
  int64_t rope_stride = 0;
  int32_t first_row = 0;
  int64_t tokens = 0;
  int32_t heads = 0;
};
cudaError_t mla_prefill_rope(cudaStream_t stream, const RopeQueries& r, Rows q, void* out);

}  // namespace fathom::kernels
