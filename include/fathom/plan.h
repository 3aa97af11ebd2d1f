// The step's contract between policy and mechanism: what the scheduler asks of the ranks, and what
// they answer. Values: made on the engine thread, read by every rank. A plan names slots, blocks
// and upper bounds; never a position, a length, a token or a draft that the device knows better.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "fathom/token_run.h"

namespace fathom {

using SlotId = int32_t;   // row of the SlotTable; slot 0 is padding and is never opened
using BlockId = int32_t;  // KV block; block 0 is padding and is never allocated
using TokenId = int32_t;

inline constexpr int32_t kLogprobsMax = 20;
inline constexpr int32_t kStopTokenIdsMax = 16;
inline constexpr int32_t kLogitBiasMax = 1024;

// Bounded and of fixed shape: what the sampler needs to know of a sequence. Order of application:
// logit_bias, penalties, min_tokens and padding mask, temperature, top_k, top_p, min_p, draw.
struct SamplingParams {
  float temperature = 1.0F;  // 0: argmax, lowest id
  float top_p = 1.0F;
  int32_t top_k = 0;  // 0: off
  float min_p = 0.0F;
  float presence_penalty = 0.0F;
  float frequency_penalty = 0.0F;
  float repetition_penalty = 1.0F;
  uint64_t seed = 0;
  int32_t max_tokens = 16;  // generated tokens at most
  int32_t min_tokens = 0;
  bool ignore_eos = false;
  std::optional<int32_t>
      logprobs;  // top entries wanted beside the chosen token; raw, before penalties
  bool prompt_logprobs = false;
  std::vector<TokenId> stop_token_ids;                // at most kStopTokenIdsMax
  std::vector<std::pair<TokenId, float>> logit_bias;  // at most kLogitBiasMax
};

enum class FinishReason : uint8_t { kNone, kStop, kLength, kCancelled, kDeadline, kError };

// Opens a slot: the sequence's known tokens (prompt, and after a preemption the answer so far) and
// its sampling.
struct OpenSlot {
  SlotId slot = 0;
  std::shared_ptr<const std::vector<TokenId>> tokens;  // whole sequence so far, at least one token
  int32_t prompt_tokens = 0;                           // of these, how many are the client's prompt
  int32_t computed_tokens = 0;  // prefix-cache hit: KV of these is in the blocks already
  std::shared_ptr<const SamplingParams> sampling;
};

// Appends blocks to a slot's block table of one cache group, from block index `first` on.
struct AppendBlocks {
  SlotId slot = 0;
  int32_t group = 0;
  int32_t first = 0;
  std::vector<BlockId> blocks;
};

enum class RowKind : uint8_t { kDecode, kVerify, kPrefill };

// One sequence's part of a step. kDecode: one token. kVerify: one token and up to tokens - 1 drafts
// that lie in the slot. kPrefill: `tokens` tokens of the prompt; `sample` when they end it. Decode
// and verify rows come first.
struct PlanRow {
  SlotId slot = 0;
  RowKind kind = RowKind::kDecode;
  int32_t tokens = 1;  // at most
  bool sample = true;
};

// Applied in this order: close, open, append, then the rows are run.
struct StepPlan {
  uint64_t number = 0;
  std::vector<SlotId> close;
  std::vector<OpenSlot> open;
  std::vector<AppendBlocks> append;
  std::vector<PlanRow> rows;

  int32_t token_count() const {
    int32_t n = 0;
    for (const PlanRow& row : rows) n += row.tokens;
    return n;
  }
};

struct TokenLogprobs {
  float chosen = 0.0F;
  std::vector<std::pair<TokenId, float>> top;  // most likely first
};

// What a row did. `accepted` tokens of the row entered the cache for good; `tokens` are new at the
// sequence's end (empty for a prefill row that does not sample, or a slot that had finished before
// this step).
struct RowResult {
  SlotId slot = 0;
  int32_t accepted = 0;
  TokenRun tokens;
  std::vector<TokenLogprobs> logprobs;  // one per token when asked for
  std::vector<TokenLogprobs>
      prompt_logprobs;  // prefill rows that asked: one per prompt token of the row; the
                        // sequence's very first token has none and is left out
  FinishReason finish = FinishReason::kNone;  // kStop (eos or a stop id) or kLength
  int32_t drafted = 0;                        // drafts that were verified in this row
};

struct StepResult {
  uint64_t number = 0;
  std::vector<RowResult> rows;  // as the plan's rows, in order
  int64_t duration_us = 0;  // from its launch to its result
  int64_t own_us = 0;       // of these, those since the result before it
};

}  // namespace fathom
