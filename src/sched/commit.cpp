// Commit: what a step did becomes part of its sequences.
#include <algorithm>
#include <array>

#include "fathom/check.h"
#include "sched/scheduler.h"

namespace fathom {
namespace {

// A window group keeps the blocks before every so many blocks for the prefix cache, beside those
// that end a prompt; the others would only push those out.
constexpr int32_t kCheckpointBlocks = 16;

}  // namespace

void Scheduler::apply_row(const PlannedRow& row, RowResult& result) {
  Sequence& s = *row.sequence;
  FATHOM_CHECK(result.slot == row.slot, "a result's row is of another slot than its plan's");
  --s.plans;
  s.tokens_ahead -= row.tokens;
  if (s.is_live()) {
    check_row(row, result);
    // At its end a sequence may accept drafts behind the token that ended it; they are nobody's.
    s.computed +=
        row.kind == RowKind::kPrefill ? row.tokens : static_cast<int32_t>(result.tokens.size());
    s.reserved = s.computed + s.tokens_ahead;
    s.tokens.insert(s.tokens.end(), result.tokens.begin(), result.tokens.end());
    const FinishReason finish = result.finish;
    FATHOM_CHECK(finish != FinishReason::kNone || s.known() < s.total_tokens_max,
                 "a sequence went on past its length");
    remember_blocks(s);
    if (!s.told.empty() && !drop_repeated_tokens(s, result)) {
      end(s, FinishReason::kError,
          internal_error("the answer went another way when its steps were repeated"));
      return;
    }
    report_tokens(s, result);
    if (finish != FinishReason::kNone) {
      end(s, finish, Status::ok());
      return;
    }
    slide_windows(s);
  }
  if (s.plans == 0 && s.phase != Phase::kRunning) leave(s);
}

void Scheduler::check_row(const PlannedRow& row, const RowResult& result) const {
  const auto tokens = static_cast<int32_t>(result.tokens.size());
  if (row.kind == RowKind::kPrefill) {
    FATHOM_CHECK(result.accepted == row.tokens, "a prefill row must compute all its tokens");
    FATHOM_CHECK(tokens == (row.sample ? 1 : 0), "a prefill row samples one token at its end");
    return;
  }
  FATHOM_CHECK(tokens >= 1 && tokens <= row.tokens, "a row made more tokens than planned, or none");
  FATHOM_CHECK(result.accepted >= tokens && result.accepted <= row.tokens,
               "a row accepted more tokens than planned, or fewer than it made");
  FATHOM_CHECK(result.accepted == tokens || result.finish != FinishReason::kNone,
               "a row that goes on makes as many tokens as it accepts");
}

void Scheduler::report_tokens(Sequence& s, RowResult& result) {
  totals_.drafted_tokens_total += result.drafted;
  if (result.drafted > 0) {
    ++totals_.drafting_rows_total;
    totals_.accepted_draft_tokens_total += std::max<size_t>(result.tokens.size(), 1) - 1;
  }
  totals_.generated_tokens_total += result.tokens.size();
  if (!result.prompt_logprobs.empty()) drop_repeated_logprobs(s, result);
  if (result.tokens.empty() && result.prompt_logprobs.empty()) return;
  emit(s.id, TokensEvent{result.tokens, std::move(result.logprobs),
                         std::move(result.prompt_logprobs), result.drafted});
}

// A deterministic answer comes again as it was; its client has it already. False: it is another.
bool Scheduler::drop_repeated_tokens(Sequence& s, RowResult& result) const {
  const size_t repeated = std::min(s.told.size(), result.tokens.size());
  const auto end_of_told = s.told.begin() + static_cast<int64_t>(repeated);
  if (!std::equal(s.told.begin(), end_of_told, result.tokens.begin())) return false;
  const auto drop = [&](auto& list) {
    const auto end = std::min(list.size(), repeated);
    list.erase(list.begin(), list.begin() + static_cast<int64_t>(end));
  };
  drop(s.told);
  drop(result.logprobs);
  result.tokens.drop_front(repeated);
  return true;
}

// After a preemption the prompt is computed again, and its logprobs come again.
void Scheduler::drop_repeated_logprobs(Sequence& s, RowResult& result) const {
  auto& list = result.prompt_logprobs;
  const auto count = static_cast<int32_t>(list.size());
  const int32_t repeated = std::clamp(s.prompt_logprobs_sent - s.prompt_logprobs_seen, 0, count);
  list.erase(list.begin(), list.begin() + repeated);
  s.prompt_logprobs_seen += count;
  s.prompt_logprobs_sent = std::max(s.prompt_logprobs_sent, s.prompt_logprobs_seen);
}

// Enters the blocks that have become full and committed into the prefix cache.
void Scheduler::remember_blocks(Sequence& s) {
  if (!s.cache_prefix) return;
  const int32_t block_tokens = kv_.block_tokens();
  const int32_t computed =
      options_.deterministic ? std::min(s.computed, s.prompt_tokens) : s.computed;
  const int32_t full = computed / block_tokens;
  if (s.remembered_blocks >= full) return;
  kv_.cache().extend_hashes(s.tenant, s.tokens, full, s.block_hashes);
  std::vector<BlockId> blocks(kv_.groups());
  for (; s.remembered_blocks < full; ++s.remembered_blocks) {
    const int32_t b = s.remembered_blocks;
    for (int32_t g = 0; g < kv_.groups(); ++g) blocks[g] = s.groups[g].ids[b];
    const std::span<const TokenId> tokens(s.tokens.data() + size_t(b) * block_tokens, block_tokens);
    s.remembered = kv_.remember(s.block_hashes[b], s.remembered, s.tenant, tokens, blocks);
  }
}

// Gives back the blocks of window groups that lie wholly before the window of the oldest position
// that can still be computed.
void Scheduler::slide_windows(Sequence& s) {
  for (int32_t g = 0; g < kv_.groups(); ++g) {
    if (!kv_.is_window(g)) continue;
    HeldBlocks& held = s.groups[g];
    const int32_t first = (s.computed - kv_.window_tokens(g)) / kv_.block_tokens();
    if (first <= held.first) continue;
    unload(s);
    for (; held.first < first; ++held.first) {
      const BlockId block = std::exchange(held.ids[held.first], 0);
      if (held.first < s.cached_tokens / kv_.block_tokens()) --held.hits;
      if (is_checkpoint(s, g, held.first)) {
        kv_.release(g, block);
      } else {
        kv_.release_forgotten(g, block);
      }
    }
    reload(s);
  }
}

bool Scheduler::is_checkpoint(const Sequence& s, int32_t group, int32_t block) const {
  const int32_t window = kv_.window_blocks(group);
  const int32_t hit_end = (s.prompt_tokens - 1) / kv_.block_tokens();
  const int32_t prompt_end = s.prompt_tokens / kv_.block_tokens();
  if (block >= hit_end - window && block < prompt_end) return true;
  const int32_t next = (block / kCheckpointBlocks + 1) * kCheckpointBlocks;
  return block >= next - window;
}

}  // namespace fathom
