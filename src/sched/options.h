// SchedulerOptions: the limits and habits of one engine's scheduler. Immutable after start.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace fathom {

struct SchedulerOptions {
  int32_t max_model_len = 4096;           // prompt and answer, in tokens
  int32_t max_num_seqs = 256;             // slots 1 to max_num_seqs
  int32_t max_num_batched_tokens = 2048;  // budget of a step
  int32_t speculative_tokens = 0;         // drafts a verify row may carry; 0: plain decode rows
  int32_t depth = 2;                      // plans in flight at most: the executor's depth()
  std::vector<int32_t> blocks;            // per cache group of the KvLayout, block 0 counted
  bool enable_prefix_caching = true;
  int32_t queued_requests_max = 512;
  int64_t queued_tokens_max = 1 << 20;   // of waiting prompts; an empty queue takes any one request
  std::optional<int64_t> queued_us_max;  // until a first step; none: no bound
  std::optional<int32_t> prefill_chunk_tokens_max;  // of one sequence in a step; none: the budget
  // Of a step, over all sequences whose prompt's logprobs are wanted: each such token has logits of
  // its own. None: the budget.
  std::optional<int32_t> prompt_logprob_tokens_max;
  // Times a step of decode rows alone that one with a prompt's tokens may take, while at least as
  // many sequences decode as wait for their first token; where two or more wait, twice what that
  // grants beyond 1. None: the budget alone bounds it.
  std::optional<double> prefill_slowdown_max;
  // A step of decode rows and prompts' tokens takes no longer while more sequences wait than
  // decode, where prefill_slowdown_max does not allow it more. None: the budget alone bounds it.
  std::optional<int64_t> prefill_step_us_max;
  // But so many tokens of a prompt without context may always join, or what costs as much: a step
  // has costs that fewer would not lower. Of one prompt a block in any case.
  int32_t prefill_tokens_min = 256;
  // Tokens of a step, decode rows counted, that fill whole rounds of a device's tiles: where more
  // of prompts waits than a bounded step takes, it takes whole rounds. None: any number is as good.
  std::optional<int32_t> round_tokens;
  int32_t answer_margin_tokens = 128;  // admission wants room for so much of the answer
  int32_t free_percent = 5;            // of each group's blocks, left free by admission
  int32_t preemptions_max = 2;         // of one request
  int32_t penalty_slots = 64;          // sequences with penalties that may run at once
  // One level of priority counts like arriving this much later, so that no request waits for ever.
  int64_t priority_step_us = 10'000'000;
  // What a decode row computed may differ in its last bits from what a prompt's row would: a
  // preempted sequence repeats its decode steps, which give the same tokens again, and prompts'
  // blocks alone enter the prefix cache.
  bool deterministic = false;
  uint64_t layout_id = 0;  // names numerics and KV layout in every block's hash
};

}  // namespace fathom
