// The arrays of one step and the table of open sequences, both in the backend's memory at fixed
// addresses. The rank's thread owns them; ops read and write them; the host never reads a value of
// an uncommitted step.
#pragma once

#include <cstdint>
#include <vector>

#include "fathom/plan.h"
#include "fathom/tensor.h"

namespace fathom {

// Sizes fixed at start.
struct SlotLimits {
  int32_t slots = 0;       // open sequences at most, plus slot 0
  int32_t tokens_max = 0;  // longest sequence: prompt and answer
  int32_t blocks_max = 0;  // block table entries per slot and group
  int32_t cache_groups = 1;
  int32_t drafts_max = 0;    // drafts a slot may carry
  int32_t vocab = 0;         // real tokens; ids from here on are padding and are never sampled
  int32_t vocab_padded = 0;  // columns of the logits
  int32_t hidden = 0;
  int32_t penalty_slots = 0;  // slots that may use penalties at the same time
};

// Sampling parameters of a slot as ops read them (plain data, same layout on every backend).
struct SlotSampling {
  float temperature = 0.0F;
  float top_p = 1.0F;
  float min_p = 0.0F;
  float presence_penalty = 0.0F;
  float frequency_penalty = 0.0F;
  float repetition_penalty = 1.0F;
  int32_t top_k = 0;
  int32_t logprobs = -1;        // on the wire to the device only: -1 none, else top entries
  int32_t prompt_logprobs = 0;  // 0 or 1
  uint32_t seed_low = 0;
  uint32_t seed_high = 0;
  int32_t prompt_tokens = 0;
  int32_t total_tokens_max = 0;  // sequence length at which it finishes with kLength
  int32_t min_total_tokens = 0;  // below this length eos and stop ids are masked
  int32_t ignore_eos = 0;
  int32_t stop_id_count = 0;
  int32_t stop_ids[kStopTokenIdsMax] = {};
  int32_t bias_count = 0;  // entries in SlotTable::bias_*
  int32_t uses_penalties = 0;
};

// Per sequence, by slot. Slot 0 is padding.
struct SlotTable {
  SlotLimits limits;
  Tensor history;      // i32 [slots, tokens_max + drafts_max + 1] token ids: prompt and answer
  Tensor length;       // i32 [slots] tokens known
  Tensor computed;     // i32 [slots] tokens whose KV is in the cache
  Tensor finished;     // u8  [slots] FinishReason, or kNone while it runs
  Tensor block_table;  // i32 [cache_groups, slots, blocks_max]
  Tensor drafts;       // i32 [slots, drafts_max]
  Tensor draft_count;  // i32 [slots]
  Tensor sampling;     // u8  [slots, sizeof(SlotSampling)]
  Tensor bias_ids;     // i32 [slots, kLogitBiasMax]
  Tensor bias_values;  // f32 [slots, kLogitBiasMax]
};

// The rows of a step as the host knows them: bounds only.
struct StepShape {
  int32_t rows = 0;
  int32_t decode_rows = 0;       // decode and verify rows, first
  int32_t tokens = 0;            // sum of the rows' upper bounds
  int32_t query_tokens_max = 0;  // of decode and verify rows
  int32_t prefill_tokens_max = 0;
  int32_t context_tokens_max = 0;  // upper bound of any row's context, for the choice of a kernel
  int32_t sample_rows =
      0;  // logits wanted: decode and verify rows times their tokens, 1 per sampling prefill
          // row, or all of a prefill row's tokens when it wants prompt logprobs
  // Of prefill rows together, their own tokens included: what they attend to. 0: not known.
  int64_t prefill_context_tokens = 0;
};

// One step's arrays, resolved on the device by Ops::advance.
struct BatchView {
  StepShape shape;
  Tensor row_slot;     // i32 [rows]
  Tensor row_kind;     // i32 [rows] RowKind
  Tensor row_first;    // i32 [rows + 1] first token of each row in the step's token arrays
  Tensor row_query;    // i32 [rows] tokens this row really computes: 0 for a slot that has finished
  Tensor row_context;  // i32 [rows] tokens of it in the cache before this step
  Tensor token_ids;    // i32 [tokens]
  Tensor token_row;    // i32 [tokens]
  Tensor positions;    // i32 [tokens]; padding tokens have position 0 and write to block 0
  Tensor token_valid;  // u8  [tokens] 0 for padding: routes to no expert, writes no cache
  // The sample rows of a row follow those of the rows before it, as many as its upper bound asks
  // for (StepShape::sample_rows), in token order: the host finds a row's logprobs without reading
  // lengths.
  Tensor sample_tokens;  // i32 [sample_rows] index of the token whose logits are wanted
  Tensor sample_row;     // i32 [sample_rows] its row
  Tensor block_table;    // the slot table's, by slot
};

// What sampling and drafting wrote: read by the host when the step is complete, and by
// Ops::apply_samples on the pipeline stages that do not sample.
struct SampleOutput {
  Tensor accepted;     // i32 [rows]
  Tensor new_count;    // i32 [rows] new tokens at the sequence's end
  Tensor new_tokens;   // i32 [rows, drafts_max + 1]
  Tensor drafted;      // i32 [rows]
  Tensor finish;       // u8  [rows] FinishReason
  Tensor draft_count;  // i32 [rows] drafts that the step left in the row's slot; sample sets 0
  Tensor drafts;       // i32 [rows, drafts_max]; not defined when drafts_max is 0
  // Raw: of the model's own distribution over all columns of the logits, before bias, penalties and
  // temperature. A row's sample rows come in the order of its tokens; of a verify row the first
  // new_count are meant, of a prefill row that wants prompt logprobs the first `accepted`.
  Tensor logprob;  // f32 [sample_rows] of the chosen token (prompt logprobs: of the next token)
  Tensor top_ids;  // i32 [sample_rows, kLogprobsMax]
  Tensor top_logprobs;  // f32 [sample_rows, kLogprobsMax]
};

// The bytes of one layer's cache on this rank.
struct KvView {
  Tensor cache;       // [blocks, block_tokens / tokens_per_entry, entry_elements]
  int32_t group = 0;  // index into SlotTable::block_table
  int32_t block_tokens = 64;
};

}  // namespace fathom
