// Planning: decode and verify rows first, then prefill in chunks, under one budget.
#include <algorithm>

#include "fathom/check.h"
#include "sched/scheduler.h"

namespace fathom {
namespace {

constexpr int32_t kPlansBetweenProbes = 16;
// What prefill_slowdown_max grants one prompt that waits, so many grant together at most. A step
// has costs that do not grow with its tokens: where many wait, larger steps serve all sooner.
constexpr size_t kShares = 2;
// How much of its share a prompt that waits alone is planned: the bound is on what steps take, more
// or less than is foretold (docs/engine_contract.md has what it gave).
constexpr double kLoneShare = 0.85;

}  // namespace

void Scheduler::plan_decodes(Draft& draft) {
  const RowKind kind = options_.speculative_tokens > 0 ? RowKind::kVerify : RowKind::kDecode;
  for (size_t i = 0; i < running_.size(); ++i) {
    Sequence& s = *running_[i];
    if (s.phase != Phase::kRunning || s.is_prefilling()) continue;
    // Upper bounds: the row in flight may accept fewer, then the next plan asks again.
    const int32_t useful = s.total_tokens_max - (s.reserved + 1);
    const int32_t tokens =
        std::min({1 + options_.speculative_tokens, useful, draft.budget.tokens_left()});
    if (tokens <= 0) continue;
    if (const auto group = short_group(s, tokens)) {
      draft.short_of_blocks = true;
      const int32_t end = blocks_for(s.reserved + tokens, kv_.block_tokens());
      make_room(s, *group, end - s.groups[*group].end());
      if (short_group(s, tokens)) continue;
    }
    add_row(s, kind, tokens, draft);
  }
}

// While many answers stream and few prompts wait, the prompts' part of a step is small enough that
// the answers hardly stall; while more wait than stream, so small that they stall no longer than a
// reader would bear.
void Scheduler::bound_prefills(Draft& draft) {
  const size_t decodes = draft.rows.size();
  const size_t waits = running_.size() - decodes + waiting_.size();
  const bool more_wait = waits > decodes;
  const bool bounded = more_wait ? options_.prefill_step_us_max.has_value()
                                 : options_.prefill_slowdown_max.has_value();
  if (!bounded || decodes == 0) return;
  if (plans_to_probe_ > 0) {
    --plans_to_probe_;
  } else if (pace_.is_stale(static_cast<int32_t>(decodes))) {
    plans_to_probe_ = kPlansBetweenProbes;
    draft.budget.close();  // a step of answers alone, to learn what it takes
    return;
  }
  const std::optional<double> without = pace_.decode_us(static_cast<int32_t>(decodes));
  const std::optional<ChunkPrices> prices = pace_.prices();
  if (!without || !prices) return;
  const double shares = waits < 2 ? kLoneShare : static_cast<double>(std::min(waits, kShares));
  double beside_us = (options_.prefill_slowdown_max.value_or(1.0) - 1.0) * shares * *without;
  if (more_wait) {
    beside_us =
        std::max(beside_us, static_cast<double>(*options_.prefill_step_us_max) - *without);
  }
  const double least_us = prices->us(chunk_shape_.work(options_.prefill_tokens_min, 0));
  draft.budget.bound_prompts(std::max(beside_us - prices->step_us, least_us), *prices,
                             kv_.block_tokens());
  round_prefills(draft);
}

// A round of tiles that a few tokens begin costs as much as a whole one: they go with a later step,
// if there is one, and if this one still gets on.
void Scheduler::round_prefills(Draft& draft) {
  if (!options_.round_tokens) return;
  const std::optional<int32_t> prompts = prompts_within(draft.budget);
  if (!prompts) return;
  const int32_t decodes = options_.max_num_batched_tokens - draft.budget.tokens_left();
  const int32_t rounded = whole_rounds(decodes + *prompts, *options_.round_tokens) - decodes;
  const int32_t least = std::max(options_.prefill_tokens_min, kv_.block_tokens());
  if (rounded >= least) draft.budget.cap(rounded);
}

// How many tokens of the prompts that wait, in their order, a step with this budget computes. None:
// all of them.
std::optional<int32_t> Scheduler::prompts_within(StepBudget budget) const {
  int32_t tokens = 0;
  const auto takes_all = [&](int32_t rest, int32_t context) {
    const int32_t chunk = std::min(rest, budget.prompt_tokens_left(context));
    budget.take_prompt(chunk, context);
    tokens += chunk;
    return chunk == rest;
  };
  for (const Sequence* s : running_) {
    if (s->phase != Phase::kRunning || !s->is_prefilling()) continue;
    if (!takes_all(s->open_tokens - s->reserved, s->reserved)) return tokens;
  }
  for (const Sequence* s : waiting_) {
    if (!takes_all(s->known(), 0)) return tokens;
  }
  return std::nullopt;
}

void Scheduler::plan_prefills(Draft& draft) {
  for (size_t i = 0; i < running_.size(); ++i) {
    Sequence& s = *running_[i];
    if (s.phase != Phase::kRunning || !s.is_prefilling()) continue;
    if (!add_prefill_row(s, draft)) return;
  }
}

// The next chunk: what the budget and the blocks at hand allow. False when the budget has no room;
// others may have some where only that for prompts' logprobs is used up.
bool Scheduler::add_prefill_row(Sequence& s, Draft& draft) {
  const int32_t rest = s.open_tokens - s.reserved;
  const int32_t block_tokens = kv_.block_tokens();
  int32_t chunk = next_chunk(rest, prefill_tokens_left(s, s.reserved, draft));
  if (chunk == 0) return next_chunk(rest, draft.budget.prompt_tokens_left(s.reserved)) > 0;
  int32_t room = room_tokens(s);
  if (room < std::min(rest, block_tokens)) {
    const auto group = short_group(s, std::min(rest, block_tokens));
    // A window group refills itself when the chunks in flight commit; growing groups may not.
    if (!group || kv_.is_window(*group)) return true;
    draft.short_of_blocks = true;
    make_room(s, *group, 1);
    room = room_tokens(s);
  }
  chunk = std::min(chunk, prefill_chunk(rest, room, block_tokens, block_tokens));
  if (chunk > 0) add_row(s, RowKind::kPrefill, chunk, draft);
  return true;
}

int32_t Scheduler::prefill_tokens_left(const Sequence& s, int32_t from, const Draft& draft) {
  const int32_t left = draft.budget.prompt_tokens_left(from);
  return s.sampling->prompt_logprobs ? std::min(left, draft.prompt_logprob_tokens_left) : left;
}

int32_t Scheduler::next_chunk(int32_t rest, int32_t tokens_left) const {
  const int32_t most =
      std::min(tokens_left, options_.prefill_chunk_tokens_max.value_or(tokens_left));
  // A step of whole rounds has no use for the tokens that a cut at a block's end would leave out.
  const int32_t unit = options_.round_tokens ? 1 : kv_.block_tokens();
  return prefill_chunk(rest, most, kv_.block_tokens(), unit);
}

void Scheduler::add_row(Sequence& s, RowKind kind, int32_t tokens, Draft& draft) {
  append_blocks(s, tokens, draft.plan);
  if (kind == RowKind::kPrefill) {
    draft.budget.take_prompt(tokens, s.reserved);
    if (s.sampling->prompt_logprobs) draft.prompt_logprob_tokens_left -= tokens;
  } else {
    draft.budget.take(tokens);
  }
  const int32_t context = s.reserved;
  s.reserved += tokens;
  s.tokens_ahead += tokens;
  ++s.plans;
  const bool sample = kind != RowKind::kPrefill || s.reserved == s.open_tokens;
  draft.plan.rows.push_back({s.slot, kind, tokens, sample});
  draft.rows.push_back({&s, s.slot, kind, tokens, context, sample});
}

// Blocks of a window group that the sequence may still take: what is its own by right, and what no
// other sequence has a right to.
int32_t Scheduler::window_room(const Sequence& s, int32_t group) const {
  const HeldBlocks& held = s.groups[group];
  const int64_t spare = kv_.pool(group).total() - load_[group];
  return static_cast<int32_t>(spare + std::max(0, held.wanted - held.own()));
}

// The first group that lacks blocks for `tokens` more tokens.
std::optional<int32_t> Scheduler::short_group(const Sequence& s, int32_t tokens) const {
  const int32_t end = blocks_for(s.reserved + tokens, kv_.block_tokens());
  for (int32_t g = 0; g < kv_.groups(); ++g) {
    const int32_t missing = end - s.groups[g].end();
    if (missing <= 0) continue;
    const int32_t room = kv_.is_window(g) ? window_room(s, g) : kv_.pool(g).available();
    if (missing > room) return g;
  }
  return std::nullopt;
}

// How many more tokens the sequence could store.
int32_t Scheduler::room_tokens(const Sequence& s) const {
  int64_t tokens = s.open_tokens - s.reserved;
  for (int32_t g = 0; g < kv_.groups(); ++g) {
    const int32_t room = kv_.is_window(g) ? window_room(s, g) : kv_.pool(g).available();
    const int64_t end = int64_t{s.groups[g].end()} + std::max(0, room);
    tokens = std::min(tokens, end * kv_.block_tokens() - s.reserved);
  }
  return static_cast<int32_t>(tokens);
}

// Blocks so that every group covers `tokens` more tokens. A sequence that can be preempted no more
// takes all it will ever need at once, so that it never has to ask again.
void Scheduler::append_blocks(Sequence& s, int32_t tokens, StepPlan& plan) {
  const int32_t covered = blocks_for(s.reserved + tokens, kv_.block_tokens());
  bool changed = false;
  for (int32_t g = 0; g < kv_.groups(); ++g) {
    HeldBlocks& held = s.groups[g];
    int32_t end = covered;
    if (!kv_.is_window(g) && s.preemptions >= options_.preemptions_max) {
      end = std::max(end, held.wanted);
    }
    if (held.end() >= end) continue;
    if (!changed) unload(s);
    changed = true;
    const int32_t first = held.end();
    while (held.end() < end) held.ids.push_back(kv_.allocate(g));
    plan.append.push_back({s.slot, g, first, {held.ids.begin() + first, held.ids.end()}});
  }
  if (changed) reload(s);
}

StepPlan Scheduler::launch(Draft& draft) {
  draft.plan.number = next_number_++;
  draft.plan.close = std::exchange(closing_slots_, {});
  PlanInFlight& next = flight(flight_count_);
  next.number = draft.plan.number;
  next.rows = std::move(draft.rows);
  ++flight_count_;
  return std::move(draft.plan);
}

}  // namespace fathom
