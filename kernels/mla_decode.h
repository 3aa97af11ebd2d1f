// MLA decode over the paged latent cache, absorbed form, on Hopper's tensor cores: a schedule made
// once a step, the attention itself, and the merge of sequences that were cut.
#pragma once

#include "format.h"
#include "mla_decode_config.h"

namespace fathom::kernels {

// A row's numbers, as in MlaDecodeRows.
struct MlaRow {
  int32_t slot;
  int32_t first;
  int32_t query;
  int32_t context;
};

// What one multiprocessor's share is: from block `tile_begin` of row `row_begin` to before block
// `tile_end` of row `row_end`. row_end < row_begin: nothing.
struct alignas(16) MlaPart {
  int32_t row_begin;
  int32_t tile_begin;
  int32_t row_end;
  int32_t tile_end;
  MlaRow row;  // row_begin: here, so that a part's first copy waits for one load less
};

// Partial results of a row: `slots` from first_slot on, in the order of their tokens. At most one:
// the row is in one part, and none is used.
struct MlaCut {
  int32_t first_slot;
  int32_t slots;
  int32_t origin;  // number of the stretch before the first cut; free cuts: the row's first part
};

struct MlaSchedule {
  MlaPart* parts = nullptr;  // [kMlaPartsMax]
  MlaCut* cuts = nullptr;    // [kMlaRowsMax]
};

// Rows of a step, by row: `query` tokens (0: padding) that start at token `first`, after `context`
// tokens in the cache.
struct MlaDecodeRows {
  const int32_t* slot = nullptr;
  const int32_t* first = nullptr;
  const int32_t* query = nullptr;
  const int32_t* context = nullptr;
  const int32_t* block_table = nullptr;  // [slots, table_stride] of the cache's group
  int64_t table_stride = 0;
};

struct MlaDecodeCall {
  MlaDecodeRows rows;
  int64_t tokens = 0;             // of the step: rows of `queries` and `out` are tokens * heads
  const void* queries = nullptr;  // bf16 [tokens, heads, 576]
  const void* cache = nullptr;    // bf16 [blocks, 64, 576], or bytes [blocks, 64, 656]
  int64_t blocks = 0;
  float softmax_scale = 0.0F;
  void* out = nullptr;       // bf16 [tokens, heads, 512]; of valid tokens
  float* partial = nullptr;  // [partial_pairs, 512] weighted sums, not divided
  // [partial_pairs, 2] the whole power of two that weights are relative to, and the weights' sum
  float* partial_weights = nullptr;
  // Programmatic dependent launch. The kernel before this one in the stream must let this one start
  // only after its own wait, as mla_entry does: the rows' arrays, the schedule and blocks that hold
  // no token of this step are read before that kernel ends.
  bool overlap = true;
  bool merge = true;  // else mla_output puts partial results together
};

// Has the driver put every kernel on the device; once, before anything is captured.
cudaError_t load_mla_decode();

// Once a step: shared by all layers of the same config.
cudaError_t mla_schedule(cudaStream_t stream, const MlaDecodeDesc& desc,
                         const MlaDecodeConfig& config, const MlaDecodeRows& rows,
                         const MlaSchedule& schedule);

// Writes `out` of the valid tokens of desc.rows rows; other rows of `out` are left alone.
cudaError_t mla_decode(cudaStream_t stream, const MlaDecodeDesc& desc,
                       const MlaDecodeConfig& config, const MlaSchedule& schedule,
                       const MlaDecodeCall& call);

}  // namespace fathom::kernels
