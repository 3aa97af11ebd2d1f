// The frame of a step on the device: slot edits, rows resolved to tokens, sampling and drafts. All
// state lives in the slot table; nothing here depends on a value that the host would have to read
// first.
#pragma once

#include "format.h"

namespace fathom::kernels {

inline constexpr int32_t kStopIdsMax = 16;
inline constexpr int32_t kBiasMax = 1024;
inline constexpr int32_t kTopMax = 20;

// Same layout as the host's slot sampling record.
struct SlotSamplingData {
  float temperature;
  float top_p;
  float min_p;
  float presence_penalty;
  float frequency_penalty;
  float repetition_penalty;
  int32_t top_k;
  int32_t logprobs;
  int32_t prompt_logprobs;
  uint32_t seed_low;
  uint32_t seed_high;
  int32_t prompt_tokens;
  int32_t total_tokens_max;
  int32_t min_total_tokens;
  int32_t ignore_eos;
  int32_t stop_id_count;
  int32_t stop_ids[kStopIdsMax];
  int32_t bias_count;
  int32_t uses_penalties;
};

struct SlotArrays {
  int32_t* history = nullptr;  // [slots, history_stride]
  int64_t history_stride = 0;
  int32_t* length = nullptr;
  int32_t* computed = nullptr;
  uint8_t* finished = nullptr;
  int32_t* block_table = nullptr;  // [groups, slots, blocks_max]
  int64_t group_stride = 0;
  int64_t blocks_max = 0;
  int32_t groups = 0;
  int32_t* drafts = nullptr;  // [slots, drafts_max]; null when drafts_max is 0
  int32_t drafts_max = 0;
  int32_t* draft_count = nullptr;
  SlotSamplingData* sampling = nullptr;
  int32_t* bias_ids = nullptr;  // [slots, kBiasMax]
  float* bias_values = nullptr;
  int32_t vocab = 0;
  int32_t vocab_padded = 0;
};

// One delta; offsets are in 4-byte words of the payload.
struct SlotEdit {
  enum Kind : int32_t { kClose, kOpen, kAppend };
  int32_t kind;
  int32_t slot;
  int32_t first;     // kOpen: computed tokens; kAppend: first block index
  int32_t count;     // kOpen: tokens; kAppend: blocks
  int32_t group;     // kAppend
  int32_t payload;   // kOpen: tokens; kAppend: block ids
  int32_t sampling;  // kOpen: SlotSamplingData
  int32_t bias;      // kOpen: bias_count ids, then as many values
};

// Edits of one kind, in device memory; a slot stands in at most one of them.
void edit_slots(cudaStream_t stream, const SlotArrays& slots, const SlotEdit* edits, int32_t count,
                const int32_t* payload);

struct PlanRowData {
  int32_t slot;
  int32_t kind;  // 0 decode, 1 verify, 2 prefill
  int32_t tokens;
  int32_t first;         // first token of the row
  int32_t sample_first;  // first sample row
  int32_t sample_count;
};

struct BatchArrays {
  int32_t* row_slot = nullptr;
  int32_t* row_kind = nullptr;
  int32_t* row_first = nullptr;
  int32_t* row_query = nullptr;
  int32_t* row_context = nullptr;
  int32_t* token_ids = nullptr;
  int32_t* token_row = nullptr;
  int32_t* positions = nullptr;
  uint8_t* token_valid = nullptr;
  int32_t* sample_tokens = nullptr;
  int32_t* sample_row = nullptr;
  int32_t rows = 0;
  int32_t tokens = 0;
  int32_t sample_rows = 0;
};

// What a plan fills of the batch's arrays; the rest is padding.
struct PlanTotals {
  int32_t rows;
  int32_t tokens;
  int32_t sample_rows;
};

// rows: [totals.rows] in device memory, or pinned host memory that the device reads.
void advance(cudaStream_t stream, const SlotArrays& slots, const PlanRowData* rows,
             const PlanTotals& totals, const BatchArrays& batch);

struct OutputArrays {
  int32_t* accepted = nullptr;
  int32_t* new_count = nullptr;
  int32_t* new_tokens = nullptr;  // [rows, new_stride]
  int64_t new_stride = 0;
  int32_t* drafted = nullptr;
  uint8_t* finish = nullptr;
  int32_t* draft_count = nullptr;
  int32_t* drafts = nullptr;
  int64_t draft_stride = 0;
  float* logprob = nullptr;
  int32_t* top_ids = nullptr;
  float* top_logprobs = nullptr;
  int64_t top_stride = 0;
};

// Scratch of `sample`, of each block: float [vocab_padded] raw logits and probabilities, int32
// [vocab_padded] counts.
struct SampleScratchArrays {
  int32_t blocks = 0;  // sample_blocks
  float* raw = nullptr;
  float* probabilities = nullptr;
  int32_t* counts = nullptr;
  float* measured = nullptr;     // [sample rows, kSampleMeasuredWords], or null
  const float* peaks = nullptr;  // [sample rows, kSamplePeaks], or null
};

// Of a sample row, where all blocks of the GPU look at its logits first; worth it for few rows. The
// logits lie at multiples of 16 bytes then.
inline constexpr int32_t kSampleMeasuredWords = 3 * 2048;
inline constexpr int32_t kSampleMeasuredRowsMax = 64;
// Peaks of a sample row's whole chunks of 128 logits, as the product that made the logits left them
// (kernels/many_gemm.h): rows that ask for the likeliest token alone need no pass over their
// logits.
inline constexpr int32_t kSamplePeaks = 2048;

// Largest vocabulary that `sample` and `propose` take.
inline constexpr int32_t kSampleVocabMax = 262'144;
// Once, before the first launch and any capture.
cudaError_t load_sampler();
// An SM holds one block of `sample`; more blocks than SMs would only take more scratch.
inline int32_t sample_blocks(int32_t rows, int32_t sms) { return rows < sms ? rows : sms; }
// A block takes row after row of the batch; edits the logits in place; verifies position after
// position. eos: eos_count ids in device memory.
void sample(cudaStream_t stream, const SlotArrays& slots, const BatchArrays& batch, float* logits,
            const int32_t* eos, int32_t eos_count, const SampleScratchArrays& scratch,
            const OutputArrays& out);

void next_tokens(cudaStream_t stream, const SlotArrays& slots, const BatchArrays& batch,
                 int32_t* out);
void last_accepted(cudaStream_t stream, const BatchArrays& batch, const int32_t* accepted,
                   int32_t* out);
// What `sample` and `propose` of another pipeline stage did, to this one's slots.
void apply_samples(cudaStream_t stream, const SlotArrays& slots, const BatchArrays& batch,
                   const OutputArrays& out);
// Argmax of logits [rows, vocab_padded] as draft `index`.
void propose(cudaStream_t stream, const SlotArrays& slots, const BatchArrays& batch,
             const float* logits, int32_t index, const OutputArrays& out);

}  // namespace fathom::kernels
