// Sequence: the mutable life of one request inside the scheduler. Owned by the Scheduler; engine
// thread.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "fathom/plan.h"
#include "fathom/request.h"
#include "sched/prefix_cache.h"

namespace fathom {

enum class Phase : uint8_t {
  kWaiting,     // holds no slot and no blocks
  kRunning,     // has a slot; prefills, then decodes
  kPreempting,  // in no new plan; waits again once the plans that name it have committed
  kEnding,      // its FinishedEvent is out; goes once the plans that name it have committed
};

// Blocks of one cache group, by block index of the sequence.
struct HeldBlocks {
  std::vector<BlockId> ids;  // padding block: not held (before the window)
  int32_t first = 0;         // blocks before this index are not held
  int32_t hits = 0;          // of those held, taken from the prefix cache
  int32_t wanted = 0;        // admission counted on so many

  int32_t end() const { return static_cast<int32_t>(ids.size()); }
  int32_t held() const { return end() - first; }
  int32_t own() const { return held() - hits; }
};

struct Sequence {
  RequestId id = 0;
  uint64_t order = 0;  // of admission: smaller is older
  int64_t arrived_us = 0;
  int64_t queue_key = 0;  // waiting and running sequences are served in this order
  int32_t priority = 0;
  std::optional<int64_t> deadline_us;
  uint64_t tenant = 0;
  bool cache_prefix = true;
  bool uses_penalties = false;
  std::shared_ptr<const SamplingParams> sampling;
  int32_t prompt_tokens = 0;
  int32_t total_tokens_max = 0;  // prompt and answer

  Phase phase = Phase::kWaiting;
  bool started = false;  // its StartedEvent is out
  int32_t preemptions = 0;
  std::vector<TokenId> tokens;  // committed: prompt and answer so far
  // Deterministic scheduling: of the answer, what was told before a preemption and comes again.
  std::vector<TokenId> told;

  SlotId slot = 0;            // 0: none
  int32_t open_tokens = 0;    // tokens known at OpenSlot: prefill ends there
  int32_t cached_tokens = 0;  // prefix-cache hit at OpenSlot
  // Tokens whose KV is in the cache: committed, and once every plan in flight has committed (at
  // most, with drafts).
  int32_t computed = 0;
  int32_t reserved = 0;
  int32_t plans = 0;         // in flight that name it
  int32_t tokens_ahead = 0;  // rows of those, upper bounds
  std::vector<HeldBlocks> groups;

  std::vector<Hash128> block_hashes;  // of full blocks of `tokens`
  int32_t remembered_blocks = 0;      // entered into the prefix cache, or found there
  PrefixCache::Serial remembered = PrefixCache::kRoot;  // the last of them

  int32_t prompt_logprobs_sent = 0;  // reported to the client
  int32_t prompt_logprobs_seen = 0;  // computed since OpenSlot: after a preemption they come again

  int32_t known() const { return static_cast<int32_t>(tokens.size()); }
  bool is_prefilling() const { return reserved < open_tokens; }
  bool is_live() const { return phase != Phase::kEnding; }
};

}  // namespace fathom
